//! Memory that went back to the OS too early: how much more stays after that, and for how long.

use std::sync::atomic::Ordering;

use super::medium::{fill_medium, free_all as free_medium};
use super::test_heap::{Live, TestHeap, fill, one_in};
use crate::base::config::{
    ARENA_BYTES, DIRTY_POOLS_MIN, POOL_BYTES, POOLS_PER_ARENA, RECALL_DECAY, RECALL_MS, RECALL_PEAK_SHARE,
};
use crate::base::kind::Medium;
use crate::cache::ThreadCache;
use crate::heap::MapArena;
use crate::heap::run::RunSize;

/// Pools of a peak; many more than stay without an allowance.
const PEAK_POOLS: usize = 4 * DIRTY_POOLS_MIN;
/// Pools around which a bound is met: a set's own empty pools, the last one in use, wholly free arenas' pools.
const AROUND: usize = 8 * ARENA_BYTES / POOL_BYTES;

/// A peak of medium blocks and its end. Returns the dirty pools that stay.
fn peak(test: &TestHeap, cache: &ThreadCache) -> usize {
    free_all(fill_medium(cache, 4096, PEAK_POOLS * POOL_BYTES), cache);
    test.dirty_pools()
}

fn free_all(live: Vec<Live<Medium>>, cache: &ThreadCache) {
    free_medium(cache, live);
    cache.shrink();
}

/// Panics unless no more stays than without an allowance.
fn assert_few(kept: usize) {
    assert!(kept <= DIRTY_POOLS_MIN + AROUND, "{kept} pools");
}

/// Panics unless nearly all of the peak stays.
fn assert_nearly_all(kept: usize) {
    assert!(kept >= PEAK_POOLS - AROUND, "{kept} pools");
}

/// Puts blocks into an order that leaves few pools empty until the end.
fn scatter(live: &mut [Live<Medium>]) {
    live.sort_by_key(|block| block.start.addr().wrapping_mul(0x9E37_79B9_7F4A_7C15));
}

fn pass(test: &TestHeap, ms: u64) {
    test.memory.now_ms.fetch_add(ms, Ordering::Relaxed);
}

#[test]
fn memory_that_is_wanted_again_soon_stays_the_next_time() {
    let test = TestHeap::new();
    let cache = test.attach();
    let first = peak(&test, cache);
    assert_few(first);
    pass(&test, RECALL_MS / 2);
    // The second peak pays for it, the third does not.
    for _ in 0..2 {
        let kept = peak(&test, cache);
        assert_nearly_all(kept);
        test.check();
    }
    let before = test.heap.bytes_given_back();
    peak(&test, cache);
    let given_back = test.heap.bytes_given_back() - before;
    assert!(given_back <= AROUND * POOL_BYTES, "{given_back} bytes");
    cache.release();
    test.purge();
    assert_eq!(test.check().arenas_mapped, 0);
}

#[test]
fn memory_that_is_wanted_again_late_goes_back_each_time() {
    let test = TestHeap::new();
    let cache = test.attach();
    for _ in 0..3 {
        let kept = peak(&test, cache);
        assert_few(kept);
        pass(&test, RECALL_MS + 1);
    }
    cache.release();
}

#[test]
fn the_allowance_sinks_while_time_passes_and_the_heap_is_used() {
    let test = TestHeap::new();
    let cache = test.attach();
    peak(&test, cache);
    let mut kept = peak(&test, cache);
    assert_nearly_all(kept);
    // A little use each second: enough calls to bring the heap to its bound.
    for _ in 0..8 * RECALL_DECAY {
        pass(&test, RECALL_MS);
        for _ in 0..PEAK_POOLS / (ARENA_BYTES / POOL_BYTES) {
            free_all(fill_medium(cache, 4096, 16 * POOL_BYTES), cache);
        }
        let now = test.dirty_pools();
        assert!(now <= kept + 16, "{now} after {kept} pools");
        kept = now;
    }
    assert_few(kept);
    test.check();
    cache.release();
}

#[test]
fn small_blocks_teach_nothing() {
    let test = TestHeap::new();
    let cache = test.attach();
    for _ in 0..3 {
        fill(cache, 512, PEAK_POOLS * POOL_BYTES).into_iter().for_each(|block: Live| block.free(cache));
        cache.shrink();
        let kept = test.dirty_pools();
        assert_few(kept);
    }
    cache.release();
}

#[test]
fn classes_in_turn_keep_no_more_than_the_recent_peak_had_in_use() {
    let test = TestHeap::new();
    let cache = test.attach();
    let mut most = 0;
    for block_bytes in [600, 4096, 5120, 12_000, 32_768, 900, 20_000, 2048].into_iter().cycle().take(24) {
        let mut live = fill_medium(cache, block_bytes, PEAK_POOLS * POOL_BYTES);
        scatter(&mut live);
        most = most.max(test.heap.with_state(|state, _| state.arenas.pools_in_use()));
        free_all(live, cache);
        let (kept, bound) = (test.dirty_pools(), most + most / RECALL_PEAK_SHARE);
        assert!(kept <= bound + POOLS_PER_ARENA, "{kept} pools, {bound}");
    }
    test.check();
    cache.release();
}

#[test]
fn a_purge_that_the_program_asked_for_teaches_nothing() {
    let test = TestHeap::new();
    let cache = test.attach();
    for _ in 0..3 {
        let kept = peak(&test, cache);
        assert_few(kept);
        test.purge();
    }
    cache.release();
}

#[test]
fn what_the_os_refused_to_take_teaches_nothing() {
    let test = TestHeap::new();
    let cache = test.attach();
    test.memory.refuse_purge.store(true, Ordering::Relaxed);
    test.memory.refuse_unmap.store(true, Ordering::Relaxed);
    peak(&test, cache);
    peak(&test, cache);
    test.memory.refuse_purge.store(false, Ordering::Relaxed);
    test.memory.refuse_unmap.store(false, Ordering::Relaxed);
    let kept = peak(&test, cache);
    assert_few(kept);
    test.check();
    cache.release();
}

#[test]
fn runs_that_are_wanted_again_soon_keep_their_memory_the_next_time() {
    let test = TestHeap::new();
    let size = RunSize { pools: 16, align_pools: 1 };
    let peak = || {
        let take = || test.heap.alloc_run(MapArena::Hard, size).expect("memory").start;
        let runs: Vec<_> = (0..PEAK_POOLS / size.pools).map(|_| take()).collect();
        // SAFETY: ours, and as long.
        runs.iter().for_each(|run| unsafe { run.write_bytes(1, size.pools * POOL_BYTES) });
        for run in runs {
            test.heap.free_run(run.addr().get(), size.pools).expect("a run");
        }
        test.dirty_pools()
    };
    let first = peak();
    assert_few(first);
    let second = peak();
    assert_nearly_all(second);
    test.check();
    test.purge();
}

#[test]
fn a_sweep_that_was_too_early_is_left_out_the_next_time() {
    let test = TestHeap::new();
    let cache = test.attach();
    // Frees all blocks in an order that leaves few pools empty until the end, and returns the bytes that went back.
    let scattered = || {
        let (last, mut freed) = one_in(48, fill_medium(cache, 5120, 96 << 20));
        scatter(&mut freed);
        free_medium(cache, freed);
        let given_back = test.heap.bytes_given_back();
        free_all(last, cache);
        given_back
    };
    let first = scattered();
    // Where an OS page is larger than a pool, no part is purged.
    assert!(first > 16 << 20 || test.memory.pools_of_os_page() > 1, "{first} bytes");
    scattered();
    let before = test.heap.bytes_given_back();
    let third = scattered() - before;
    assert!(third <= AROUND * POOL_BYTES, "{third} bytes");
    test.check();
    cache.release();
}
