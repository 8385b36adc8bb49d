//! The thread slot: how a thread finds its cache, and what it does while it has none.
//!
//! # States of a thread
//! ```text
//! unattached ──first slow call──▶ attached ──pthread key's destructor──▶ ended
//!      └────────no memory, no key────────────────────────────────────────▲ (for that call, or for good)
//! ```
//! The slot always points at a cache: a stand-in, whose magazines are all poisoned, before the first call and
//! after the end. So the fast path has no test for initialisation. A thread without a cache allocates and frees one
//! block at a time by the heap's spare set: a free needs no memory there, and never fails.
//!
//! The slot is the crate's only thread-local. It has no destructor and a constant initial value, so reaching it is
//! one load and never allocates. The thread's end is learned from a pthread key, whose destructors run after those
//! of Rust's and C++'s thread-locals; what other keys' destructors do later goes by the spare set. (A thread whose very
//! first small request comes from a destructor in the last of the rounds that POSIX grants leaves its cache behind.)

use core::cell::Cell;
use core::ffi::c_void;
use core::ptr;

use super::ThreadCache;
use crate::fork;
use crate::heap::Heap;
use crate::observer::{self, Request};
use crate::os;
use crate::pool::Block;
use crate::pool_set::Slot;
use crate::size_class::SizeClass;

/// The program's heap.
pub(crate) static GLOBAL: Heap = Heap::new();

/// Stands in for the cache of a thread that has none yet.
static UNATTACHED: ThreadCache = ThreadCache::stand_in();
/// Stands in for the cache of a thread that gave its own up.
static ENDED: ThreadCache = ThreadCache::stand_in();

thread_local! {
    static SLOT: Cell<&'static ThreadCache> = const { Cell::new(&UNATTACHED) };
}

/// The calling thread's cache, or a stand-in.
#[inline(always)]
pub(crate) fn current() -> &'static ThreadCache {
    SLOT.with(Cell::get)
}

/// A number that no other thread has at the same time; never 0.
pub(crate) fn thread_token() -> usize {
    SLOT.with(|slot| ptr::from_ref(slot).addr())
}

/// Runs `body` with the calling thread's cache, if it has one.
pub(crate) fn with_thread<R>(body: impl FnOnce(&'static ThreadCache) -> R) -> Option<R> {
    let cache = current();
    cache.heap.get().is_some().then(|| body(cache))
}

/// Gives the calling thread a cache; `None` if it ended, or there is no memory or no pthread key.
fn attach() -> Option<&'static ThreadCache> {
    if ptr::eq(current(), &ENDED) {
        return None;
    }
    fork::watch();
    if let Some(cache) = with_thread(|cache| cache) {
        // The registration allocated, by us.
        return Some(cache);
    }
    let cache = ThreadCache::acquire(&GLOBAL)?;
    // Before the registration, which in some C libraries allocates.
    SLOT.set(cache);
    if os::on_thread_end(thread_ended, ptr::from_ref(cache).cast()) {
        return Some(cache);
    }
    // Nobody would tell us of the thread's end: do without a cache rather than leak it.
    SLOT.set(&ENDED);
    cache.release();
    None
}

/// The pthread key's destructor.
unsafe extern "C" fn thread_ended(_value: *mut c_void) {
    with_thread(|cache| {
        SLOT.set(&ENDED);
        cache.release();
    });
}

pub(super) fn alloc_without_cache(class: SizeClass, request: Request) -> *mut u8 {
    if let Some(cache) = attach() {
        return cache.alloc(class, request);
    }
    let block = take_spare(class).map_or(ptr::null_mut(), |block| block.start.as_ptr());
    observer::allocated(block, request);
    block
}

pub(super) fn alloc_zeroed_without_cache(class: SizeClass, request: Request) -> *mut u8 {
    if let Some(cache) = attach() {
        return cache.alloc_zeroed(class, request);
    }
    let block = take_spare(class).map_or(ptr::null_mut(), |block| block.into_zeroed(class));
    observer::allocated(block, request);
    block
}

fn take_spare(class: SizeClass) -> Option<Block> {
    GLOBAL.spare.enter(&GLOBAL, |inside| inside.take_one(class))
}

pub(super) fn free_without_cache(class: SizeClass, block: *mut u8) {
    if let Some(cache) = attach() {
        // SAFETY: the caller's promise is the same.
        return unsafe { cache.free(class, block) };
    }
    // Before the block can be anybody else's.
    observer::freed(block);
    GLOBAL.spare.enter(&GLOBAL, |inside| inside.give(class, &[Slot::new(block)]));
}
