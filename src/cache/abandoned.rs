//! The process's end where the system first ends all other threads, wherever they are (Windows).
//!
//! Then the last thread's destructors run, which free and allocate. A thread that was ended inside the allocator has
//! left its lock held, and perhaps a pool half changed: nobody may touch that pool any more. So the last thread looks
//! at every lock before it frees anything. If one is held, the heap is *abandoned*. The thread gives up its cache. The
//! blocks that it frees stay where they are, and new small blocks come from the system's allocator, whose lock the
//! system takes care of. All memory goes with the process, in a moment.
//!
//! A call that waits for the heap's locks all the same (`purge`, `stats`), or for the debug hooks' own lock, does not
//! hang: it ends the process with a message (`futex_wait`).
//!
//! # Invariants
//! - *Alone*: the last thread sets the flag, when there is no other thread. Nothing clears it.

use core::alloc::{GlobalAlloc, Layout};
use std::alloc::System;

use super::{GLOBAL, tls};
use crate::base::kind::Kind;
use crate::base::size_class::Class;
use crate::os;
use crate::sync::{AtomicU32, Ordering};

/// Not 0 once the heap is abandoned.
static ABANDONED: AtomicU32 = AtomicU32::new(0);

os::when_alone!(look);

#[cfg_attr(not(windows), allow(dead_code, reason = "other systems have no such end"))]
extern "C" fn look() {
    let heap = &GLOBAL;
    // SAFETY: sets are never unmapped.
    let is_quiet =
        heap.is_unlocked() && heap.sets().all(|set| unsafe { set.as_ref() }.try_enter(heap, |_| ()).is_some());
    if !is_quiet {
        abandon();
    }
}

/// Leaves the heap as it is, for good. The calling thread is the process's last.
fn abandon() {
    // Relaxed (both): there is no other thread.
    ABANDONED.store(1, Ordering::Relaxed);
    tls::set(&tls::ENDED);
}

/// Whether the heap is abandoned.
#[inline(always)]
pub(crate) fn is_abandoned() -> bool {
    os::KILLS_THREADS_AT_EXIT && ABANDONED.load(Ordering::Relaxed) != 0
}

/// A zeroed block for `class` from the system, which is never freed.
pub(super) fn alloc<K: Kind>(class: Class<K>) -> *mut u8 {
    let bytes = class.block_bytes();
    // A block in a pool is aligned to the largest power of two that divides its size.
    // SAFETY: sizes of classes are small, and not 0.
    unsafe { System.alloc_zeroed(Layout::from_size_align_unchecked(bytes, 1 << bytes.trailing_zeros())) }
}
