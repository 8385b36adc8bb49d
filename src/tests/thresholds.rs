//! The exact number at which each budget and limit of `config` takes effect.

use std::sync::atomic::Ordering;

use super::test_heap::{Live, TestHeap, alloc, class, fill, free_by_spare_set, one_of_each, take_by_spare_set};
use crate::base::config::{
    ARENA_BYTES, DENSE_POOLS_MIN, DIRTY_POOLS_MIN, EMPTY_ARENAS_MIN, EMPTY_ARENAS_SHARE, FAULT_IN_FROM_POOLS,
    HUGE_FROM_ARENAS, INBOX_KNOCK_POOLS, POOL_BYTES, POOLS_PER_ARENA, SET_EMPTY_POOLS_MAX,
};
use crate::cache::ThreadCache;

/// Frees blocks, and returns all pools that this empties to their arenas.
fn free_for_good(test: &TestHeap, live: Vec<Live>, cache: &ThreadCache) {
    live.into_iter().for_each(|block| block.free(cache));
    cache.shrink();
    cache.set.enter(test.heap, |inside| inside.return_empty_pools(0));
}

#[test]
fn as_many_wholly_free_arenas_stay_as_the_minimum_or_the_share_allows() {
    let least_share = EMPTY_ARENAS_MIN * EMPTY_ARENAS_SHARE;
    for in_use in [1, least_share + EMPTY_ARENAS_SHARE - 1, least_share + EMPTY_ARENAS_SHARE] {
        let test = TestHeap::new();
        let cache = test.attach();
        // One block of an arena is enough to keep it.
        let live = fill(cache, 512, (in_use + EMPTY_ARENAS_MIN + 4) * ARENA_BYTES);
        let (mut kept, mut freed) = one_of_each(ARENA_BYTES, live);
        freed.extend(kept.drain(in_use..));
        free_for_good(&test, freed, cache);
        let empty = EMPTY_ARENAS_MIN.max(in_use / EMPTY_ARENAS_SHARE);
        assert_eq!(test.check().arenas_mapped, in_use + empty);
        free_for_good(&test, kept, cache);
        cache.release();
    }
}

#[test]
fn as_many_free_pools_stay_dirty_as_the_minimum_allows() {
    let test = TestHeap::new();
    let cache = test.attach();
    let (kept, freed) = one_of_each(ARENA_BYTES, fill(cache, 512, 2 * DIRTY_POOLS_MIN * POOL_BYTES));
    free_for_good(&test, freed, cache);
    // Later pools may stay, too: they can't be purged if a live block keeps their OS page.
    let beside_kept = kept.len() * (test.memory.pools_of_os_page() - 1);
    let dirty = test.dirty_pools();
    assert!((DIRTY_POOLS_MIN..=DIRTY_POOLS_MIN + POOLS_PER_ARENA + beside_kept).contains(&dirty), "{dirty} pools");
    free_for_good(&test, kept, cache);
    cache.release();
}

#[test]
fn a_set_keeps_some_empty_pools_and_returns_half_of_them_at_the_next() {
    let class = class(512);
    let keep = SET_EMPTY_POOLS_MAX;
    for (pools, empty) in [(keep, keep), (keep + 1, keep / 2), (keep + 2, keep / 2 + 1)] {
        let test = TestHeap::new();
        let take = |seed: usize| {
            let block = take_by_spare_set(test.heap, class).expect("memory");
            Live::fill(block.start.as_ptr(), class, seed as u64)
        };
        let live: Vec<_> = (0..pools * class.pool_blocks()).map(take).collect();
        live.into_iter().for_each(|block| free_by_spare_set(test.heap, block));
        assert_eq!(test.check().pools_empty, empty, "{pools} pools");
    }
}

#[test]
#[cfg_attr(windows, ignore = "memory is committed there")]
fn arenas_ask_for_huge_pages_from_a_number_on() {
    let test = TestHeap::without_commits();
    let cache = test.attach();
    let mut live = Vec::new();
    while test.memory.huge.load(Ordering::Relaxed) == 0 {
        live.extend(fill(cache, 512, POOL_BYTES));
    }
    assert_eq!(test.check().arenas_mapped, HUGE_FROM_ARENAS + 1);
    // A huge page comes as a whole.
    let populates = test.memory.populates.load(Ordering::Relaxed);
    live.extend(fill(cache, 512, ARENA_BYTES / 2));
    assert_eq!(test.memory.populates.load(Ordering::Relaxed), populates);
    free_for_good(&test, live, cache);
    cache.release();
}

#[test]
#[cfg_attr(windows, ignore = "memory is committed there")]
fn sets_that_do_not_fill_their_pools_ask_for_no_huge_pages_however_many_they_are() {
    let test = TestHeap::without_commits();
    let caches: Vec<_> = (0..40).map(|_| test.attach()).collect();
    let mut live = Vec::new();
    for cache in &caches {
        // A set with as many pools as a dense set must have, but one block in each.
        live.push((0..DENSE_POOLS_MIN).map(|number| alloc(cache, class(8 + 8 * number), 0).expect("memory")).collect());
    }
    assert!(test.check().arenas_mapped > HUGE_FROM_ARENAS);
    assert_eq!(test.memory.huge.load(Ordering::Relaxed), 0);
    // One of them fills what it takes.
    live.push(fill(caches[0], 512, 4 * ARENA_BYTES));
    assert_ne!(test.memory.huge.load(Ordering::Relaxed), 0);
    test.check();
    live.into_iter().for_each(|live: Vec<Live>| free_for_good(&test, live, caches[0]));
    caches.into_iter().for_each(ThreadCache::release);
}

#[test]
#[cfg_attr(windows, ignore = "memory is committed there")]
fn pools_of_a_class_get_their_memory_at_once_from_a_number_on() {
    let test = TestHeap::without_commits();
    let cache = test.attach();
    let mut live = Vec::new();
    let (from_pools, populates) = (FAULT_IN_FROM_POOLS as usize, || test.memory.populates.load(Ordering::Relaxed));
    while populates() == 0 && live.len() < 2 * from_pools * POOL_BYTES / 512 {
        live.push(alloc(cache, class(512), 0).expect("memory"));
    }
    // Where an OS page holds several pools, single pools can't be populated.
    let wanted = if test.memory.pools_of_os_page() == 1 { from_pools + 1 } else { 2 * from_pools };
    assert_eq!(test.check().classes[63].pools, wanted);
    assert_eq!(populates(), usize::from(wanted == from_pools + 1));
    free_for_good(&test, live, cache);
    cache.release();
}

#[test]
fn an_inbox_is_knocked_at_when_it_holds_a_number_of_pools() {
    let knock_pools = INBOX_KNOCK_POOLS as usize;
    let test = TestHeap::new();
    let (sleeper, other) = (test.attach(), test.attach());
    let (firsts, rest) = one_of_each(POOL_BYTES, fill(sleeper, 512, (knock_pools + 2) * POOL_BYTES));
    for (number, block) in firsts.into_iter().enumerate() {
        block.free(other);
        other.set.enter(test.heap, |inside| other.flush_all(inside));
        assert_eq!(test.check().classes[63].blocks_remote, (number + 1) % knock_pools);
    }
    free_for_good(&test, rest, sleeper);
    sleeper.release();
    other.release();
}
