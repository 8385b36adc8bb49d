//! Pools and blocks that ended threads left, and the threads that use them.

use super::test_heap::{TestHeap, alloc, class, fill, one_in, one_of_each};
use crate::base::config::{ARENA_BYTES, DEPOT_BLOCKS_MAX, POOL_BYTES, SET_EMPTY_POOLS_MAX};
use crate::cache::ThreadCache;

#[test]
fn a_new_thread_adopts_what_an_ended_one_left() {
    let test = TestHeap::new();
    for _ in 0..100 {
        let cache = test.attach();
        fill(cache, 128, 3 * POOL_BYTES).into_iter().for_each(|block| block.free(cache));
        cache.release();
    }
    let stats = test.check();
    assert_eq!((stats.caches_live, stats.caches_parked, stats.arenas_ever), (0, 1, 1));
}

#[test]
fn threads_that_ended_have_no_share_in_what_the_running_ones_may_keep() {
    let test = TestHeap::new();
    let caches: Vec<_> = (0..1000).map(|_| test.attach()).collect();
    caches.into_iter().for_each(ThreadCache::release);
    let cache = test.attach();
    fill(cache, 64, DEPOT_BLOCKS_MAX / 2 * 64).into_iter().for_each(|block| block.free(cache));
    assert!(test.depot_blocks(cache) > DEPOT_BLOCKS_MAX / 4);
    fill(cache, 512, 3 * SET_EMPTY_POOLS_MAX * POOL_BYTES).into_iter().for_each(|block| block.free(cache));
    cache.shrink();
    // The set returns half of its empty pools whenever it has too many.
    let empty = test.check().pools_empty;
    assert!(empty >= SET_EMPTY_POOLS_MAX / 2, "{empty} pools");
    cache.release();
}

#[test]
fn a_survivor_uses_the_partly_free_pools_of_63_ended_threads() {
    let test = TestHeap::new();
    let caches: Vec<_> = (0..63).map(|_| test.attach()).collect();
    let mut kept = Vec::new();
    let mut freed_bytes = 0;
    for cache in &caches {
        for (index, block) in fill(cache, 48, ARENA_BYTES / 4).into_iter().enumerate() {
            if index % 2 == 0 {
                freed_bytes += 48;
                block.free(cache);
            } else {
                kept.push(block);
            }
        }
    }
    caches.into_iter().for_each(ThreadCache::release);
    let before = test.check();
    let survivor = test.attach();
    let live = fill(survivor, 48, freed_bytes);
    let after = test.check();
    assert!(after.arenas_mapped <= before.arenas_mapped + 1, "{} → {}", before.arenas_mapped, after.arenas_mapped);
    live.into_iter().chain(kept).for_each(|block| block.free(survivor));
    survivor.release();
    test.purge();
    assert_eq!(test.check().arenas_mapped, 0);
}

#[test]
fn pools_that_others_free_into_after_their_thread_ended_are_used_again() {
    let test = TestHeap::new();
    let (ended, other) = (test.attach(), test.attach());
    let live = fill(ended, 512, 100 * POOL_BYTES);
    ended.release();
    // One block of each pool stays.
    let blocks = POOL_BYTES / 512;
    let (rest, freed) = one_of_each(POOL_BYTES, live);
    freed.into_iter().for_each(|block| block.free(other));
    let before = test.check().classes[63].pools;
    let more = fill(other, 512, 20 * POOL_BYTES);
    let after = test.check().classes[63].pools;
    assert_eq!(more.len(), 20 * blocks);
    assert!(after <= before + 1, "{before} pools, then {after}");
    rest.into_iter().chain(more).for_each(|block| block.free(other));
    other.release();
}

#[test]
fn what_others_freed_into_the_pools_of_an_ended_thread_is_used_before_a_new_pool() {
    let test = TestHeap::new();
    let (ended, other) = (test.attach(), test.attach());
    let live = fill(ended, 512, 8 * POOL_BYTES);
    ended.release();
    // Too few blocks of each pool, and too few pools, for the freeing thread to collect them itself.
    let (freed, mut kept) = one_in(5, live);
    let count = freed.len();
    freed.into_iter().for_each(|block| block.free(other));
    other.set.enter(test.heap, |inside| other.flush_all(inside));
    let before = test.check().classes[63];
    assert_eq!(before.blocks_remote, count, "nobody collected them yet");
    kept.extend((0..count / 2).map(|_| alloc(other, class(512), 1).expect("memory")));
    assert_eq!(test.check().classes[63].pools, before.pools);
    kept.into_iter().for_each(|block| block.free(other));
    other.release();
    assert_eq!(test.check().blocks_live(), 0);
}
