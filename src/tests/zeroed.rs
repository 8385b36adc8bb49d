//! Zeroed blocks are zero, whatever their memory was used for before.

use std::sync::atomic::Ordering::Relaxed;

use super::test_heap::{Live, TestHeap, alloc, alloc_zeroed, class, take_by_spare_set};
use crate::cache::ThreadCache;

/// The ways in which used memory is served again.
fn zeroed_after(prepare: impl Fn(&TestHeap, &'static ThreadCache)) {
    let test = TestHeap::new();
    let cache = test.attach();
    // One block stays, so that its arena stays.
    let anchor = alloc(cache, class(8), 0).expect("memory");
    let dirty: Vec<_> = (0..3000).map(|seed| alloc(cache, class(512), seed).expect("memory")).collect();
    dirty.into_iter().for_each(|block| block.free(cache));
    prepare(&test, cache);
    // `alloc_zeroed` checks each byte; other classes cut the pools anew.
    for block_bytes in [512, 504, 24, 8] {
        let live: Vec<_> =
            (0..1000).map(|seed| alloc_zeroed(cache, class(block_bytes), seed).expect("memory")).collect();
        live.into_iter().for_each(|block| block.free(cache));
    }
    anchor.free(cache);
    cache.release();
    test.check();
}

#[test]
fn zeroed_blocks_are_zero_after_dirty_reuse() {
    zeroed_after(|_, _| ());
    zeroed_after(|_, cache| cache.shrink());
}

#[test]
fn zeroed_blocks_are_zero_after_a_purge() {
    zeroed_after(|test, cache| {
        cache.shrink();
        assert!(test.purge() > 2000 * 512);
        assert!(test.memory.purges.load(Relaxed) > 0);
    });
}

#[test]
fn zeroed_blocks_are_zero_after_a_purge_that_failed() {
    zeroed_after(|test, cache| {
        cache.shrink();
        test.memory.refuse_purge.store(true, Relaxed);
        test.memory.refuse_unmap.store(true, Relaxed);
        assert_eq!(test.purge(), 0);
    });
}

#[test]
fn zeroed_blocks_of_virgin_memory_are_not_touched() {
    let test = TestHeap::new();
    let cache = test.attach();
    let block = take_by_spare_set(test.heap, class(512)).expect("memory");
    assert!(block.zeroed, "virgin memory is known to be zero");
    Live::fill(block.start.as_ptr(), class(512), 1).free(cache);
    cache.shrink();
    test.purge();
    let stats = test.check();
    assert_eq!(stats.arenas_mapped, 0, "{stats}");
    cache.release();
}
