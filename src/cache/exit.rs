//! The process's end: what its caches hold goes home, where a block that was freed twice is found.
//!
//! Nothing else is wrong with blocks in a cache when the program exits, so this costs time for the check's sake: a few
//! instructions for each block of the exiting thread's cache, of caches that no thread has, and of the depots of
//! others. The magazines of threads that still run are left out: they belong to those threads' fast paths.
//!
//! Whoever allocates at the exit may be handed a block that is in a cache twice. So the preload library's tracer asks for
//! the check before it begins.
//!
//! No door is waited for. Where the exiting thread is inside its own, because a signal handler exits, nothing is done; nor
//! is it where another thread was ended inside the heap (see `abandoned`).

use super::{GLOBAL, ThreadCache, is_abandoned, with_thread};
use crate::os;

os::at_end!(check);

#[cfg_attr(target_os = "linux", unsafe(link_section = ".text_pymalloc"))]
pub(crate) extern "C" fn check() {
    if is_abandoned() {
        return;
    }
    let heap = &GLOBAL;
    let own = with_thread(|cache| cache.set.try_enter(heap, |inside| cache.flush_all(inside)));
    if own.unwrap_or_else(|| heap.spare.try_enter(heap, |_| ())).is_none() {
        return;
    }
    for set in heap.sets() {
        // SAFETY: a registered set.
        if let Some(cache) = unsafe { ThreadCache::of_set(heap, set) } {
            // SAFETY: caches are never unmapped.
            let cache = unsafe { cache.as_ref() };
            cache.set.try_enter(heap, |inside| cache.flush_behind_door(inside));
        }
    }
    // What one set's cache freed may be another's.
    for set in heap.sets() {
        // SAFETY: sets are never unmapped.
        unsafe { set.as_ref() }.try_enter(heap, |inside| inside.collect());
    }
}
