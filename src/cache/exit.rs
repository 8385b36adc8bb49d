//! The process's end: the blocks in its caches go home, and a block that was freed twice is found there.
//!
//! The exit does this for the check alone. It costs a few instructions for each block of the exiting thread's cache, of
//! the caches that no thread has, and of the other caches' depots. The magazines of threads that still run are left
//! out, because they belong to those threads' fast paths.
//!
//! If a block is in a cache twice, an allocation at the exit may get it. So the preload library's tracer asks for the
//! check before it begins.
//!
//! The check waits for no door. It does nothing if the exiting thread is inside its own door, because a signal handler
//! exits; nor if another thread was ended inside the heap (see `abandoned`).

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
    // The caches above may have freed blocks of other sets.
    for set in heap.sets() {
        // SAFETY: sets are never unmapped.
        unsafe { set.as_ref() }.try_enter(heap, |inside| inside.collect());
    }
}
