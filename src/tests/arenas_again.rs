//! Arenas that go and come again.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use super::test_heap::{Live, TestHeap, alloc, alloc_zeroed, class};
use crate::config::{ARENA_BYTES, POOL_BYTES};

#[test]
fn the_metadata_of_an_arena_that_is_gone_is_used_again_although_the_os_refuses_to_purge_it() {
    let test = TestHeap::new();
    let cache = test.attach();
    let metadata_bytes = || test.heap.with_state(|state, _| state.metadata.mapped_bytes());
    let mut after_one = 0;
    for round in 0..4 {
        for block_bytes in [8, 512] {
            let blocks = 4 * ARENA_BYTES / 512;
            let live = (0..blocks).map(|seed| alloc(cache, class(block_bytes), seed as u64).expect("memory"));
            live.collect::<Vec<_>>().into_iter().for_each(|block| block.free(cache));
        }
        let live = (0..POOL_BYTES / 512).map(|seed| alloc_zeroed(cache, class(504), seed as u64).expect("memory"));
        live.collect::<Vec<_>>().into_iter().for_each(|block| block.free(cache));
        test.check();
        cache.shrink();
        test.memory.refuse_purge.store(true, Ordering::Relaxed);
        test.purge();
        test.memory.refuse_purge.store(false, Ordering::Relaxed);
        assert_eq!(test.check().arenas_mapped, 0);
        if round == 0 {
            after_one = metadata_bytes();
        }
    }
    assert_eq!(metadata_bytes(), after_one);
    cache.release();
}

#[test]
fn a_step_of_a_purge_is_an_arena_and_tells_whether_it_did_anything() {
    const ARENAS: usize = 4;
    for keep_pools in [0, 10] {
        let test = TestHeap::new();
        let cache = test.attach();
        let live = (0..ARENAS * ARENA_BYTES / 512).map(|seed| alloc(cache, class(512), seed as u64).expect("memory"));
        let mut seen = BTreeSet::new();
        let (kept, freed): (Vec<Live>, Vec<_>) =
            live.collect::<Vec<_>>().into_iter().partition(|block| seen.insert(block.start.addr() / ARENA_BYTES));
        freed.into_iter().for_each(|block| block.free(cache));
        cache.shrink();
        cache.set.enter(test.heap, |inside| inside.return_empty_pools(0));
        let (dirty, before) = (test.dirty_pools(), test.heap.bytes_given_back());
        assert!(dirty > (ARENAS - 1) * ARENA_BYTES / POOL_BYTES);
        let taken = test.heap.pools_taken();
        assert!(!test.heap.purge_step(0, taken + 1), "a pool was taken since");
        assert_eq!(test.dirty_pools(), dirty);
        for step in 0..ARENAS {
            let before = test.dirty_pools();
            assert!(test.heap.purge_step(keep_pools * POOL_BYTES, taken), "step {step}");
            assert!(before - test.dirty_pools() < ARENA_BYTES / POOL_BYTES);
        }
        assert!(!test.heap.purge_step(keep_pools * POOL_BYTES, taken));
        assert_eq!(test.dirty_pools(), keep_pools);
        assert_eq!(test.heap.bytes_given_back() - before, (dirty - keep_pools) * POOL_BYTES);
        kept.into_iter().for_each(|block| block.free(cache));
        cache.release();
    }
}
