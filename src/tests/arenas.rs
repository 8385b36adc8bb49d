//! Which arena serves a request, when arenas are mapped and unmapped, and when they get memory.

use std::sync::atomic::Ordering;

use super::test_heap::{Live, TestHeap, alloc_zeroed, class, fill, one_of_each};
use crate::base::config::{
    ARENA_BYTES, EMPTY_ARENAS_MIN, FAULT_IN_FROM_POOLS, POOL_BYTES, POOLS_PER_ARENA, SET_EMPTY_POOLS_MAX,
};
use crate::cache::ThreadCache;

#[test]
fn the_fullest_arena_is_used_first_so_that_the_emptiest_drains() {
    let test = TestHeap::new();
    let cache = test.attach();
    let pool_of = |block: &Live| block.start.addr() / POOL_BYTES;
    let arena_of = |block: &Live| block.start.addr() / ARENA_BYTES;
    let mut live = fill(cache, 512, 4 * ARENA_BYTES);
    let arenas: std::collections::BTreeSet<_> = live.iter().map(arena_of).collect();
    let arenas: Vec<_> = arenas.into_iter().collect();
    // Three quarters of the first arena are freed, and one quarter of the second.
    let (freed, kept): (Vec<_>, Vec<_>) = live.into_iter().partition(|block| {
        let quarter = pool_of(block) % POOLS_PER_ARENA / (POOLS_PER_ARENA / 4);
        arena_of(block) == arenas[0] && quarter < 3 || arena_of(block) == arenas[1] && quarter < 1
    });
    freed.into_iter().for_each(|block| block.free(cache));
    cache.shrink();
    test.purge();
    live = fill(cache, 256, ARENA_BYTES / 8);
    assert!(live.iter().all(|block| arena_of(block) == arenas[1]), "the fuller arena serves");
    live.into_iter().chain(kept).for_each(|block| block.free(cache));
    cache.release();
}

#[test]
fn after_a_peak_all_but_a_bounded_number_of_arenas_go_back_at_once() {
    let test = TestHeap::new();
    let cache = test.attach();
    for _ in 0..3 {
        let live = fill(cache, 64, 40 * ARENA_BYTES);
        assert!(test.check().arenas_mapped >= 40);
        live.into_iter().for_each(|block| block.free(cache));
        let stats = test.check();
        // More arenas stay than the heap keeps: they hold the thread's empty pools, or the blocks of its magazine. With
        // the feature `hardened` these blocks are in random order, so each peak scatters them a little more.
        let scattered = if cfg!(feature = "hardened") { 8 } else { 0 };
        let kept = EMPTY_ARENAS_MIN + 2 + scattered;
        assert!(stats.arenas_mapped <= kept, "{stats}");
        assert!(stats.pools_empty <= SET_EMPTY_POOLS_MAX, "{stats}");
    }
    cache.release();
}

#[test]
fn freeing_and_taking_around_an_arena_boundary_does_not_map_and_unmap() {
    let test = TestHeap::new();
    let cache = test.attach();
    let base = fill(cache, 512, 2 * ARENA_BYTES);
    // Twice: at the second time some blocks may still be in quarantine, and other blocks serve.
    for _ in 0..2 {
        fill(cache, 512, ARENA_BYTES).into_iter().for_each(|block| block.free(cache));
    }
    let ever = test.check().arenas_ever;
    for _ in 0..20 {
        fill(cache, 512, ARENA_BYTES).into_iter().for_each(|block| block.free(cache));
    }
    assert_eq!(test.check().arenas_ever, ever);
    base.into_iter().for_each(|block| block.free(cache));
    cache.release();
}

#[test]
fn many_threads_keep_few_empty_pools_each() {
    let test = TestHeap::new();
    let caches: Vec<_> = (0..1000).map(|_| test.attach()).collect();
    for cache in &caches {
        fill(cache, 512, 8 * POOL_BYTES).into_iter().for_each(|block| block.free(cache));
    }
    let kept = test.check().pools_empty;
    assert!(kept <= 1000 * SET_EMPTY_POOLS_MAX, "{kept}");
    caches.into_iter().for_each(ThreadCache::release);
    assert_eq!(test.check().pools_empty, 0);
}

#[test]
#[cfg_attr(windows, ignore = "memory is committed there")]
fn a_class_that_grows_gets_its_pools_memory_at_once_and_one_that_is_small_does_not() {
    let test = TestHeap::without_commits();
    let cache = test.attach();
    let populates = || test.memory.populates.load(Ordering::Relaxed);
    let mut live = Vec::new();
    for block_bytes in [64, 128, 512] {
        live.extend(fill(cache, block_bytes, FAULT_IN_FROM_POOLS as usize * POOL_BYTES));
    }
    assert_eq!(populates(), 0);
    live.extend(fill(cache, 64, 8 * POOL_BYTES));
    // Where an OS page holds several pools, single pools can't be populated.
    let wanted = if test.memory.pools_of_os_page() == 1 { 7..=9 } else { 0..=0 };
    assert!(wanted.contains(&populates()), "{}", populates());
    // Pools that have their memory are not populated again.
    live.into_iter().for_each(|block| block.free(cache));
    let before = populates();
    fill(cache, 64, 8 * POOL_BYTES).into_iter().for_each(|block| block.free(cache));
    assert_eq!(populates(), before);
    cache.release();
}

#[test]
fn the_metadata_of_an_arena_that_is_gone_is_used_again_although_the_os_refuses_to_purge_it() {
    let test = TestHeap::new();
    let cache = test.attach();
    let metadata_bytes = || test.heap.with_state(|state, _| state.metadata.mapped_bytes());
    let mut after_one = 0;
    for round in 0..4 {
        for block_bytes in [8, 512] {
            let blocks = 4 * ARENA_BYTES / 512;
            fill(cache, block_bytes, blocks * block_bytes).into_iter().for_each(|block| block.free(cache));
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
        let (kept, freed) = one_of_each(ARENA_BYTES, fill(cache, 512, ARENAS * ARENA_BYTES));
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
        // Each arena keeps the OS page of the pool in use, and so the other pools of that page.
        let left = keep_pools.max(ARENAS * (test.memory.pools_of_os_page() - 1));
        assert_eq!(test.dirty_pools(), left);
        assert_eq!(test.heap.bytes_given_back() - before, (dirty - left) * POOL_BYTES);
        kept.into_iter().for_each(|block| block.free(cache));
        cache.release();
    }
}
