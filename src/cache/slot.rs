//! The thread slot: how a thread finds its cache, and what it does while it has none.
//!
//! # States of a thread
//! ```text
//! unattached ──first slow call──▶ attached ──pthread key's destructor──▶ ended
//!      └────────no memory, no key────────────────────────────────────────▲ (for that call, or for good)
//! ```
//! The slot always points at a cache: a stand-in, whose magazines are all poisoned, before the first call and after the
//! end. So the fast path has no test for initialisation. A thread without a cache allocates and frees one block at a
//! time, from and to the heap's spare set: a free needs no memory there, and never fails.
//!
//! The slot (in `tls`) is the crate's only thread-local. It has no destructor and a constant initial value, so reaching
//! it is a load or two and never allocates. (In a library, the loader may allocate by the C library's `malloc` when a
//! thread first reaches it.) A pthread key tells of the thread's end: keys' destructors run after the destructors of
//! Rust's and C++'s thread-locals. Destructors of other keys that run later use the spare set. (POSIX runs them in a
//! limited number of rounds. If a thread's very first small request comes from a destructor in the last round, with
//! musl in the last two, the thread leaves its cache behind.) On Windows a TLS callback tells of the end, also after
//! the destructors of thread-locals (`os/windows/callbacks.rs`).

use core::ffi::c_void;
use core::ptr;

use super::abandoned::{self, is_abandoned};
use super::slow::Slow;
use super::{ThreadCache, count, last_resort, tls};
use crate::base::size_class::Class;
use crate::cache::fork;
use crate::cache::hardened;
use crate::heap::Heap;
use crate::heap::pool::Block;
use crate::heap::pool::Slot;
use crate::observe::{self, Request};
use crate::os;
use crate::sync::{AtomicU32, Ordering};

/// The program's heap.
pub(crate) static GLOBAL: Heap = Heap::new();

/// Not 0 once threads may no longer get caches.
static WITHOUT_CACHES: AtomicU32 = AtomicU32::new(0);

/// The calling thread's cache, or a stand-in.
#[inline(always)]
pub(crate) fn current() -> &'static ThreadCache {
    tls::get()
}

/// Runs `body` with the calling thread's cache, if it has one.
pub(crate) fn with_thread<R>(body: impl FnOnce(&'static ThreadCache) -> R) -> Option<R> {
    let cache = current();
    cache.heap.get().is_some().then(|| body(cache))
}

/// Gives the calling thread a cache. `None` if the thread ended, or if there is no memory or no pthread key.
#[cfg_attr(target_os = "linux", unsafe(link_section = ".text_pymalloc"))]
fn attach() -> Option<&'static ThreadCache> {
    // Relaxed: a flag alone; a thread that attaches just before it is set keeps its cache.
    if ptr::eq(current(), &tls::ENDED) || WITHOUT_CACHES.load(Ordering::Relaxed) != 0 {
        return None;
    }
    fork::watch();
    if let Some(cache) = with_thread(|cache| cache) {
        // The registration allocated from this allocator, which attached a cache.
        return Some(cache);
    }
    let cache = ThreadCache::acquire(&GLOBAL)?;
    // Before the registration, which in some C libraries allocates.
    tls::set(cache);
    if os::on_thread_end(thread_ended, ptr::from_ref(cache).cast()) {
        return Some(cache);
    }
    // Nothing would tell us of the thread's end: do without a cache rather than leak it.
    give_up(cache);
    None
}

/// The pthread key's destructor.
#[cfg_attr(target_os = "linux", unsafe(link_section = ".text_pymalloc"))]
unsafe extern "C" fn thread_ended(value: *mut c_void) {
    if !os::end_is_told_again(value) {
        with_thread(give_up);
    }
}

/// Leaves the calling thread without its cache, for good.
#[cfg_attr(target_os = "linux", unsafe(link_section = ".text_pymalloc"))]
fn give_up(cache: &'static ThreadCache) {
    cache.malloc.end();
    tls::set(&tls::ENDED);
    // Relaxed: as in `attach`.
    if WITHOUT_CACHES.load(Ordering::Relaxed) != 0 {
        // Nobody adopts it, so no block may stay there.
        return cache.release_with(0);
    }
    cache.release();
}

/// From now on, the calling thread and every thread that has no cache yet use the spare set. Each of their frees is
/// then checked at the call, because blocks go home one by one, into pools that all belong to one set.
#[cfg(feature = "__raw")]
pub(crate) fn go_without_caches() {
    // Relaxed: as in `attach`.
    WITHOUT_CACHES.store(1, Ordering::Relaxed);
    with_thread(give_up);
}

#[inline(never)]
#[cfg_attr(target_os = "linux", unsafe(link_section = ".text_pymalloc"))]
pub(super) fn alloc_without_cache<K: Slow>(class: Class<K>, request: Request) -> *mut u8 {
    if let Some(cache) = attach() {
        return cache.alloc(class, request);
    }
    if is_abandoned() {
        return abandoned::alloc(class);
    }
    let block = take_spare(&GLOBAL, class).map_or(ptr::null_mut(), |block| block.start.as_ptr());
    if K::IS_SMALL {
        observe::allocated(block, class.block_bytes(), request);
    }
    block
}

#[inline(never)]
#[cfg_attr(target_os = "linux", unsafe(link_section = ".text_pymalloc"))]
pub(super) fn alloc_zeroed_without_cache<K: Slow>(class: Class<K>, request: Request) -> *mut u8 {
    if let Some(cache) = attach() {
        return cache.alloc_zeroed(class, request);
    }
    if is_abandoned() {
        return abandoned::alloc(class);
    }
    let block = take_spare(&GLOBAL, class).map_or(ptr::null_mut(), |block| block.into_zeroed(class));
    if K::IS_SMALL {
        observe::allocated(block, class.block_bytes(), request);
    }
    block
}

/// A block for a thread without a cache.
pub(crate) fn take_spare<K: Slow>(heap: &'static Heap, class: Class<K>) -> Option<Block> {
    let block = heap.spare.enter(heap, |inside| inside.take_one(class));
    let block = block.or_else(|| last_resort::take(heap, &heap.spare, class));
    block.inspect(|block| {
        if K::IS_SMALL {
            count::note_spare_allocation();
        }
        hardened::handed_out_spare(heap, class, block.start.as_ptr());
    })
}

#[cfg_attr(target_os = "linux", unsafe(link_section = ".text_pymalloc"))]
pub(super) fn free_without_cache<K: Slow>(class: Class<K>, block: *mut u8) {
    if let Some(cache) = attach() {
        return cache.put(class, block);
    }
    if is_abandoned() {
        return;
    }
    if K::IS_SMALL {
        observe::freed(block, class.block_bytes());
    }
    GLOBAL.spare.enter(&GLOBAL, |inside| inside.give(class, &[Slot::new(block)]));
}
