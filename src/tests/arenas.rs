//! Arenas that go and come again.

use std::sync::atomic::Ordering;

use super::test_heap::{TestHeap, alloc, alloc_zeroed, class};
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
