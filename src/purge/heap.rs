//! Giving back to the OS all that is free: the heap's part of `purge`.

use crate::cache::flush_caches;
use crate::heap::Heap;

/// Brings home what threads freed into each other's pools, and gives back every free pool's memory and every free
/// arena; returns the bytes given back while it ran. The calling thread holds no door.
pub(crate) fn purge_heap(heap: &Heap) -> usize {
    let before = heap.bytes_given_back();
    flush_caches(heap);
    for set in heap.sets() {
        // SAFETY: sets are never unmapped.
        unsafe { set.as_ref() }.visit(heap, |inside| {
            inside.collect();
            inside.return_empty_pools(0);
            inside.sweep();
        });
    }
    heap.purge_free();
    heap.bytes_given_back().wrapping_sub(before)
}
