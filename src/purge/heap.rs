//! The heap's part of `purge`: gives all free memory back to the OS.

use crate::cache::flush_caches;
use crate::heap::Heap;

/// Collects remote frees, and gives back the memory of every free pool and every free arena. Returns the bytes that
/// were given back while it ran. The calling thread holds no door.
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
