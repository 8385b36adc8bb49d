//! Giving back to the OS all that is free: the heap's part of `purge`.

use crate::cache::ThreadCache;
use crate::heap::Heap;

/// Brings home what threads freed into each other's pools, and gives back every free pool's memory and every free
/// arena; returns the bytes given back while it ran. The calling thread holds no door.
pub(crate) fn purge_heap(heap: &Heap) -> usize {
    let before = heap.bytes_given_back();
    flush_caches(heap);
    for set in heap.sets() {
        // SAFETY: sets are never unmapped.
        unsafe { set.as_ref() }.enter(heap, |inside| {
            inside.collect();
            inside.return_empty_pools(0);
            inside.sweep();
        });
    }
    heap.purge_free();
    heap.bytes_given_back().wrapping_sub(before)
}

/// Empties the depots of all caches, and the whole of those that no thread has: those that ended threads left warm, and
/// in a forked child those of the threads that do not exist there. To be done before sets are collected, because their
/// blocks go to other sets' inboxes, too.
fn flush_caches(heap: &Heap) {
    for set in heap.sets() {
        // SAFETY: a registered set.
        if let Some(cache) = unsafe { ThreadCache::of_set(heap, set) } {
            // SAFETY: sets and caches are never unmapped.
            let (set, cache) = unsafe { (set.as_ref(), cache.as_ref()) };
            set.enter(heap, |inside| cache.flush_behind_door(inside));
        }
    }
}
