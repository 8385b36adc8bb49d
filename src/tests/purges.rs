//! Purges in arenas that stay: sweeps, `purge`, and free pools beyond those that are kept.

use std::sync::atomic::Ordering;

use super::test_heap::{Live, TestHeap, alloc_zeroed, class, fill, one_in, one_of_each};
use crate::base::config::PURGE_UNIT_BYTES;
use crate::base::config::{
    ARENA_BYTES, DIRTY_POOLS_MIN, DIRTY_POOLS_SHARE, HUGE_FROM_ARENAS, POOL_BYTES, POOLS_PER_ARENA, PURGE_ARENAS_MAX,
    PURGE_FROM_POOLS,
};
use crate::cache::ThreadCache;

#[test]
fn what_is_left_scattered_of_a_peak_does_not_keep_the_peaks_memory() {
    let test = TestHeap::new();
    let cache = test.attach();
    let (kept, freed) = one_in(100, fill(cache, 256, 64 << 20));
    let before = test.heap.bytes_given_back();
    freed.into_iter().for_each(|block| block.free(cache));
    let given_back = test.heap.bytes_given_back() - before;
    test.assert_swept(given_back, 40 << 20);
    // Memory that is used again is sound, and zeroed where a request asks for that.
    test.check();
    let zeroed = |seed| alloc_zeroed(cache, class(256), seed).expect("memory");
    let again: Vec<_> = (0..10_000).map(zeroed).collect();
    test.check();
    kept.iter().for_each(Live::verify);
    again.into_iter().chain(kept).for_each(|block| block.free(cache));
    cache.release();
    test.purge();
    assert_eq!(test.check().arenas_mapped, 0);
}

#[test]
fn a_set_is_swept_again_when_half_as_much_is_left() {
    let test = TestHeap::new();
    let cache = test.attach();
    let (mut few, mut more, mut freed) = (Vec::new(), Vec::new(), Vec::new());
    for (index, block) in fill(cache, 256, 64 << 20).into_iter().enumerate() {
        match index {
            _ if index % 100 == 0 => few.push(block),
            _ if index % 40 == 0 => more.push(block),
            _ => freed.push(block),
        }
    }
    freed.into_iter().for_each(|block| block.free(cache));
    // The first sweep comes when less than one byte in 32 is in use.
    while test.memory.purges_parts() && test.heap.bytes_given_back() < 16 << 20 {
        more.pop().expect("a sweep before the last").free(cache);
    }
    let (before, left) = (test.heap.bytes_given_back(), more.len());
    assert!(left > 4000, "{left} blocks");
    more.into_iter().for_each(|block| block.free(cache));
    let given_back = test.heap.bytes_given_back() - before;
    test.assert_swept(given_back, 6 << 20);
    test.check();
    few.into_iter().for_each(|block| block.free(cache));
    cache.release();
}

#[test]
fn a_set_is_not_swept_while_half_of_it_is_in_use() {
    let test = TestHeap::new();
    let cache = test.attach();
    let (kept, freed): (Vec<_>, Vec<_>) = fill(cache, 256, 64 << 20)
        .into_iter()
        .partition(|block| (block.start.addr() / PURGE_UNIT_BYTES).is_multiple_of(2));
    freed.into_iter().for_each(|block| block.free(cache));
    assert_eq!(test.heap.bytes_given_back(), 0);
    kept.into_iter().for_each(|block| block.free(cache));
    cache.release();
}

#[test]
fn a_set_of_which_little_is_left_is_not_swept_for_blocks_taken_and_freed_since() {
    let test = TestHeap::new();
    let cache = test.attach();
    let (kept, freed) = one_in(100, fill(cache, 256, 64 << 20));
    freed.into_iter().for_each(|block| block.free(cache));
    let given_back = test.heap.bytes_given_back();
    test.assert_swept(given_back, 0);
    fill(cache, 256, 1 << 20).into_iter().for_each(|block| block.free(cache));
    assert_eq!(test.heap.bytes_given_back(), given_back);
    kept.into_iter().for_each(|block| block.free(cache));
    cache.release();
}

#[test]
fn small_sets_are_swept_when_the_program_purges_and_not_by_themselves_afterwards() {
    let test = TestHeap::new();
    let cache = test.attach();
    let live = fill(cache, 256, 4 << 20);
    test.purge();
    let purges = test.memory.purges.load(Ordering::Relaxed);
    let (kept, freed) = one_in(100, live);
    freed.into_iter().for_each(|block| block.free(cache));
    assert_eq!(test.memory.purges.load(Ordering::Relaxed), purges);
    test.assert_swept(test.purge(), 1 << 20);
    kept.into_iter().for_each(|block| block.free(cache));
    cache.release();
}

#[test]
fn purge_tells_how_much_it_gave_back() {
    let test = TestHeap::new();
    let caches: Vec<_> = (0..64).map(|_| test.attach()).collect();
    for cache in &caches {
        fill(cache, 512, 16 * POOL_BYTES).into_iter().for_each(|block| block.free(cache));
        cache.shrink();
    }
    let before = test.check();
    let used = before.arenas_mapped * POOLS_PER_ARENA - before.pools_unused;
    assert!(test.purge() >= used * POOL_BYTES);
    assert_eq!(test.check().arenas_mapped, 0);
}

/// Frees all but one block of each arena; returns those.
fn keep_one_of_each_arena(live: Vec<Live>, cache: &ThreadCache) -> Vec<Live> {
    let (kept, freed) = one_of_each(ARENA_BYTES, live);
    freed.into_iter().for_each(|block| block.free(cache));
    kept
}

#[test]
#[cfg_attr(windows, ignore = "memory is committed there")]
fn an_arena_with_holes_gets_no_huge_page_again() {
    let test = TestHeap::without_commits();
    let cache = test.attach();
    let kept = keep_one_of_each_arena(fill(cache, 512, (HUGE_FROM_ARENAS + 6) * ARENA_BYTES), cache);
    let huge = test.memory.huge.load(Ordering::Relaxed);
    assert!((5..=7).contains(&huge), "{huge} arenas");
    // The others were refused huge pages when they were mapped.
    let plain = test.check().arenas_ever - huge;
    cache.shrink();
    test.purge();
    assert_eq!(test.memory.no_longer_huge.load(Ordering::Relaxed) - plain, huge);
    kept.into_iter().for_each(|block| block.free(cache));
    cache.release();
}

#[test]
fn free_pools_kept_while_many_were_in_use_are_purged_when_few_are() {
    let test = TestHeap::new();
    let cache = test.attach();
    // With this many pools in use, four times the minimum may stay free and dirty.
    let peak_pools = 4 * DIRTY_POOLS_MIN * DIRTY_POOLS_SHARE;
    let kept = keep_one_of_each_arena(fill(cache, 512, peak_pools * POOL_BYTES), cache);
    let dirty = test.dirty_pools();
    assert!((DIRTY_POOLS_MIN / 2..=2 * DIRTY_POOLS_MIN).contains(&dirty), "{dirty} pools");
    test.check();
    kept.into_iter().for_each(|block| block.free(cache));
    cache.release();
}

#[test]
fn a_purge_empties_the_depots_of_threads_that_sleep() {
    let test = TestHeap::new();
    let cache = test.attach();
    fill(cache, 64, 1 << 18).into_iter().for_each(|block| block.free(cache));
    let blocks = || cache.set.door.lock().with(|pools| cache.depot_blocks(pools.door()));
    assert_ne!(blocks(), (0, 0));
    assert_ne!(test.purge(), 0);
    assert_eq!(blocks(), (0, 0));
    test.check();
    cache.release();
}

#[test]
fn free_pools_kept_while_more_were_in_use_go_as_further_ones_come() {
    let test = TestHeap::new();
    let cache = test.attach();
    let peak_pools = 2 * DIRTY_POOLS_MIN * DIRTY_POOLS_SHARE;
    let pool_of = |block: &Live| block.start.addr() / POOL_BYTES % POOLS_PER_ARENA;
    let (freed, kept): (Vec<_>, Vec<_>) =
        fill(cache, 512, peak_pools * POOL_BYTES).into_iter().partition(|block| pool_of(block) < POOLS_PER_ARENA / 4);
    freed.into_iter().for_each(|block| block.free(cache));
    cache.shrink();
    cache.set.enter(test.heap, |inside| inside.return_empty_pools(0));
    // The bound has shrunk since the dirty pools first exceeded it. At most an arena's worth more than it allows stay.
    let dirty = test.dirty_pools();
    let bound = kept.len() / (POOL_BYTES / 512) / DIRTY_POOLS_SHARE;
    assert!((bound - 4..=bound + POOLS_PER_ARENA + 4).contains(&dirty), "{dirty} pools, {bound}");
    kept.into_iter().for_each(|block| block.free(cache));
    cache.release();
}

#[test]
fn what_the_os_refuses_is_not_tried_again_for_each_pool_that_comes_back() {
    let test = TestHeap::new();
    let cache = test.attach();
    let pools = 4 * DIRTY_POOLS_MIN;
    let (kept, freed) = one_of_each(ARENA_BYTES, fill(cache, 512, pools * POOL_BYTES));
    test.memory.refuse_purge.store(true, Ordering::Relaxed);
    let before = test.memory.purges.load(Ordering::Relaxed);
    freed.into_iter().for_each(|block| block.free(cache));
    cache.shrink();
    let tried = test.memory.purges.load(Ordering::Relaxed) - before;
    // Each try looks at eight arenas, of which one pool is in use, so that two ranges are free.
    assert!(tried <= 2 * PURGE_ARENAS_MAX * pools / PURGE_FROM_POOLS, "{tried} ranges");
    assert!(test.dirty_pools() > pools / 2);
    test.memory.refuse_purge.store(false, Ordering::Relaxed);
    test.check();
    kept.into_iter().for_each(|block| block.free(cache));
    cache.release();
}
