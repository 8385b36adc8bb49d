//! What a tick of the purge thread does: one test per rule.

use super::test_heap::{Live, TestHeap, fill};
use crate::base::config::{ARENA_BYTES, CLASS_COUNT, DEPOT_BLOCKS_MAX, MAGAZINE_SLOTS_MAX, POOL_BYTES};
use crate::cache::ThreadCache;
use crate::cache::hardened::QUARANTINE_SLOTS;
use crate::purge::tick::Ticker;

fn free_all(live: Vec<Live>, cache: &ThreadCache) {
    live.into_iter().for_each(|block| block.free(cache));
}

/// Makes two ticks: the first sees the calls made so far, the second finds that there were no more.
fn two_ticks(ticker: &mut Ticker) {
    ticker.tick(|| true);
    ticker.tick(|| true);
}

#[test]
fn an_idle_threads_depot_and_empty_pools_go_home_and_its_magazines_stay() {
    let test = TestHeap::new();
    let mut ticker = Ticker::new(test.heap, 0);
    let cache = test.attach();
    free_all(fill(cache, 64, DEPOT_BLOCKS_MAX * 64), cache);
    assert!(test.blocks_cached() > DEPOT_BLOCKS_MAX / 2, "the depot holds much");
    assert!(test.check().pools_empty + test.check().pools_unused > 0);
    two_ticks(&mut ticker);
    let stats = test.check();
    let left = test.blocks_cached();
    assert!(0 < left && left <= MAGAZINE_SLOTS_MAX + QUARANTINE_SLOTS, "{left} blocks");
    assert_eq!(stats.pools_empty, 0, "{stats}");
    assert_eq!(stats.arenas_mapped, 1, "{stats}");
    // The thread goes on as before.
    free_all(fill(cache, 64, DEPOT_BLOCKS_MAX * 64), cache);
    test.check();
    cache.release();
}

#[test]
fn a_thread_that_makes_slow_calls_keeps_what_it_has() {
    let test = TestHeap::new();
    let mut ticker = Ticker::new(test.heap, 0);
    let cache = test.attach();
    for _ in 0..5 {
        free_all(fill(cache, 64, DEPOT_BLOCKS_MAX * 64), cache);
        let before = test.blocks_cached();
        ticker.tick(|| true);
        assert_eq!(test.blocks_cached(), before);
        assert_eq!(test.check().arenas_mapped, 1);
    }
    cache.release();
}

#[test]
fn what_others_freed_into_an_idle_threads_pools_goes_home() {
    let test = TestHeap::new();
    let mut ticker = Ticker::new(test.heap, 0);
    let (owner, other) = (test.attach(), test.attach());
    let blocks = fill(owner, 128, POOL_BYTES / 4);
    free_all(blocks, other);
    other.shrink();
    assert!(test.check().classes.iter().any(|class| class.blocks_remote > 0));
    two_ticks(&mut ticker);
    assert!(test.check().classes.iter().all(|class| class.blocks_remote == 0));
    owner.release();
    other.release();
}

#[test]
fn the_heap_keeps_its_free_memory_while_pools_are_taken_from_it() {
    let test = TestHeap::new();
    let mut ticker = Ticker::new(test.heap, 0);
    let (peak, busy) = (test.attach(), test.attach());
    free_all(fill(peak, 512, 4 * ARENA_BYTES), peak);
    peak.shrink();
    let mut live = Vec::new();
    ticker.tick(|| true);
    let mapped = test.check().arenas_mapped;
    assert!(mapped >= 3);
    for _ in 0..3 {
        live.extend(fill(busy, 512, 4 * POOL_BYTES));
        ticker.tick(|| true);
        assert_eq!(test.check().arenas_mapped, mapped, "not while pools are taken");
    }
    ticker.tick(|| true);
    assert_eq!(test.check().arenas_mapped, 1);
    free_all(live, busy);
    peak.release();
    busy.release();
}

#[test]
fn as_much_is_kept_as_was_asked_for() {
    for keep_arenas in [0, 1, 3] {
        let test = TestHeap::new();
        let mut ticker = Ticker::new(test.heap, keep_arenas * ARENA_BYTES);
        let cache = test.attach();
        free_all(fill(cache, 512, 6 * ARENA_BYTES), cache);
        cache.release();
        two_ticks(&mut ticker);
        let stats = test.check();
        assert_eq!(stats.arenas_mapped, keep_arenas, "{stats}");
    }
}

#[test]
fn as_many_free_pools_keep_their_memory_as_was_asked_for() {
    const POOLS: usize = 20;
    for keep_pools in [0, 1, 7, POOLS + 4] {
        let test = TestHeap::new();
        let mut ticker = Ticker::new(test.heap, keep_pools * POOL_BYTES);
        let (owner, peak) = (test.attach(), test.attach());
        // Otherwise the arena would be free.
        let live = fill(owner, 512, POOL_BYTES);
        free_all(fill(peak, 512, POOLS * POOL_BYTES), peak);
        peak.release();
        let before = test.heap.bytes_given_back();
        two_ticks(&mut ticker);
        let purged = (test.heap.bytes_given_back() - before) / POOL_BYTES;
        // A refill may have opened one more pool.
        let wanted = POOLS.saturating_sub(keep_pools)..=(POOLS + 2).saturating_sub(keep_pools);
        assert!(wanted.contains(&purged), "{purged} pools purged, {keep_pools} to be kept");
        free_all(live, owner);
        owner.release();
    }
}

#[test]
fn a_refusing_os_ends_no_tick_in_a_loop() {
    let test = TestHeap::new();
    let mut ticker = Ticker::new(test.heap, 0);
    let cache = test.attach();
    free_all(fill(cache, 512, 3 * ARENA_BYTES), cache);
    cache.release();
    test.memory.refuse_unmap.store(true, std::sync::atomic::Ordering::Relaxed);
    test.memory.refuse_purge.store(true, std::sync::atomic::Ordering::Relaxed);
    let mapped = test.check().arenas_mapped;
    two_ticks(&mut ticker);
    assert_eq!(test.check().arenas_mapped, mapped);
    test.memory.refuse_unmap.store(false, std::sync::atomic::Ordering::Relaxed);
    test.memory.refuse_purge.store(false, std::sync::atomic::Ordering::Relaxed);
    ticker.tick(|| true);
    assert_eq!(test.check().arenas_mapped, 0);
}

#[test]
fn what_an_idle_thread_left_scattered_is_swept_once() {
    let test = TestHeap::new();
    let mut ticker = Ticker::new(test.heap, 0);
    let cache = test.attach();
    let (kept, freed): (Vec<_>, Vec<_>) =
        fill(cache, 256, 2 * ARENA_BYTES).into_iter().partition(|block| block.start.addr() % POOL_BYTES == 0);
    free_all(freed, cache);
    let before = test.heap.bytes_given_back();
    two_ticks(&mut ticker);
    let pools = 2 * ARENA_BYTES / POOL_BYTES;
    let given_back = test.heap.bytes_given_back() - before;
    test.assert_swept(given_back, pools * POOL_BYTES / 2);
    let purges = test.memory.purges.load(std::sync::atomic::Ordering::Relaxed);
    two_ticks(&mut ticker);
    assert_eq!(test.memory.purges.load(std::sync::atomic::Ordering::Relaxed), purges);
    free_all(kept, cache);
    cache.release();
    assert_eq!(test.check().classes.len(), CLASS_COUNT);
}

#[test]
fn a_thread_at_work_is_not_swept_and_an_idle_one_again_when_more_came_home() {
    let test = TestHeap::new();
    let mut ticker = Ticker::new(test.heap, 0);
    let (owner, other) = (test.attach(), test.attach());
    let place = |block: &Live| block.start.addr() % POOL_BYTES;
    let (kept, freed): (Vec<_>, Vec<_>) =
        fill(owner, 256, 2 * ARENA_BYTES).into_iter().partition(|block| place(block) == 0);
    let (later, freed): (Vec<_>, Vec<_>) = freed.into_iter().partition(|block| place(block) >= POOL_BYTES / 2);
    two_ticks(&mut ticker);
    let before = test.heap.bytes_given_back();
    free_all(freed, owner);
    ticker.tick(|| true);
    assert_eq!(test.heap.bytes_given_back(), before);
    let third = 2 * ARENA_BYTES / 3;
    ticker.tick(|| true);
    let given_back = test.heap.bytes_given_back();
    test.assert_swept(given_back - before, third / 2);
    free_all(later, other);
    other.shrink();
    two_ticks(&mut ticker);
    test.assert_swept(test.heap.bytes_given_back() - given_back, third);
    free_all(kept, owner);
    owner.release();
    other.release();
}
