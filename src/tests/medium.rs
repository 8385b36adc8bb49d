//! Medium blocks and runs: their differences from small blocks, and what they have in common.

use super::test_heap::{Live, TestHeap, alloc, alloc_zeroed, assert_zero, class, fill, fill_bytes, verify_bytes};
use crate::base::config::{
    ARENA_BYTES, DIRTY_POOLS_MIN, MEDIUM_CLASS_COUNT, MEDIUM_DEPOT_BYTES_MAX, MEDIUM_MAGAZINE_BYTES_MAX,
    MEDIUM_MAX_BYTES, POOL_BYTES, RUN_MAX_BYTES, SMALL_MAX_BYTES,
};
use crate::base::fatal::Impossible;
use crate::base::kind::Medium;
use crate::base::size_class::{MediumClass, Quotient};
use crate::cache::{ThreadCache, alloc_run};
use crate::heap::ArenaLimits;
use crate::heap::run::RunSize;
use crate::observe::Request;

fn medium(block_bytes: usize) -> MediumClass {
    MediumClass::of_size_align(block_bytes, 1).expect("a medium size")
}

const fn run_of(pools: usize) -> RunSize {
    RunSize { pools, align_pools: 1 }
}

pub(super) fn fill_medium(cache: &ThreadCache, block_bytes: usize, bytes: usize) -> Vec<Live<Medium>> {
    let class = medium(block_bytes);
    (0..bytes / block_bytes).map(|seed| alloc(cache, class, seed as u64).expect("memory")).collect()
}

pub(super) fn free_all(cache: &ThreadCache, live: Vec<Live<Medium>>) {
    live.into_iter().for_each(|block| block.free(cache));
}

#[test]
fn every_medium_request_gets_the_smallest_class_that_fits_and_is_aligned() {
    let classes: Vec<_> = MediumClass::all().map(MediumClass::block_bytes).collect();
    assert!(classes.len() == MEDIUM_CLASS_COUNT && classes.is_sorted());
    assert_eq!((classes[0], classes[MEDIUM_CLASS_COUNT - 1]), (576, MEDIUM_MAX_BYTES));
    for align in (0..=16).map(|shift| 1_usize << shift) {
        for size in (1..=MEDIUM_MAX_BYTES + 64).chain([0, 1 << 20, usize::MAX, usize::MAX / 2 + 1]) {
            let rounded = size.checked_next_multiple_of(align);
            let wanted = rounded.filter(|&bytes| size != 0 && bytes > SMALL_MAX_BYTES && bytes <= MEDIUM_MAX_BYTES);
            let found = MediumClass::of_size_align(size, align);
            let Some(bytes) = wanted else {
                assert_eq!(found, None, "{size} {align}");
                continue;
            };
            let found = found.expect("a medium layout has a class");
            assert!(found.block_bytes() >= bytes && found.block_bytes().is_multiple_of(align), "{size} {align}");
            let below = found.number().checked_sub(1).map_or(SMALL_MAX_BYTES, |number| classes[number]);
            assert!(bytes > below, "{size} {align}: a smaller class would do");
            assert!(found.block_bytes() - bytes < bytes / 8, "{size} {align}");
        }
    }
}

#[test]
fn every_offset_in_a_medium_pool_gives_the_block_that_starts_there_or_none() {
    for class in MediumClass::all() {
        assert!((8..=56).contains(&class.pool_blocks()) && class.bitmap_words() == 1);
        assert!(class.pool_bytes() - class.pool_blocks() * class.block_bytes() < class.block_bytes());
        let locator = class.locator();
        let pool_start = 3 * class.pool_bytes();
        let range = locator.word_range(pool_start, 0);
        // All addresses of the smaller pools; of the larger ones, those near every block's start.
        let near = |offset: usize| {
            offset % class.block_bytes() < 40 || offset % class.block_bytes() > class.block_bytes() - 40
        };
        for offset in (0..class.pool_bytes()).filter(|&offset| class.pool_bytes() == POOL_BYTES || near(offset)) {
            let number = offset / class.block_bytes();
            let inside = number < class.pool_blocks();
            let expected = (inside && offset.is_multiple_of(class.block_bytes())).then_some(number);
            assert_eq!(class.block_at(offset), expected, "{class:?} {offset}");
            let quotient = locator.quotient_in(range, pool_start + offset);
            assert_eq!(quotient.is_some(), inside);
            if let Some(quotient) = quotient {
                assert_eq!(quotient.join(Quotient::EXACT).is_exact(), expected.is_some(), "{class:?} {offset}");
                assert!(expected.is_none_or(|number| quotient.bit() == 1 << number));
            }
        }
    }
}

#[test]
fn what_one_kind_leaves_free_serves_the_other_and_runs() {
    let test = TestHeap::new();
    let cache = test.attach();
    test.heap.set_arena_limits(ArenaLimits::of_hard(2));
    let bytes = 2 * ARENA_BYTES;
    for _ in 0..2 {
        let small = fill(cache, 512, bytes);
        assert!(alloc(cache, medium(600), 0).is_none() && alloc_run(test.heap, run_of(1)).is_none());
        small.into_iter().for_each(|block| block.free(cache));
        // Only blocks in the cache may be missing.
        cache.shrink();
        let medium_blocks = fill_medium(cache, MEDIUM_MAX_BYTES, bytes);
        assert!(alloc(cache, class(8), 0).is_none() && alloc_run(test.heap, run_of(1)).is_none());
        free_all(cache, medium_blocks);
        cache.shrink();
        let runs: Vec<_> = (0..4).map(|_| alloc_run(test.heap, run_of(32)).expect("memory")).collect();
        assert!(alloc(cache, class(8), 0).is_none() && alloc(cache, medium(600), 0).is_none());
        let stats = test.check();
        assert_eq!((stats.runs_live, stats.bytes.runs, stats.arenas_mapped), (4, bytes, 2));
        for run in runs {
            test.heap.free_run(run.start.addr().get(), 32).expect("a run");
        }
    }
    cache.release();
    test.purge();
    assert_eq!(test.check().arenas_mapped, 0);
}

#[test]
fn at_the_limit_a_run_is_had_of_what_other_threads_can_spare() {
    let test = TestHeap::new();
    let (sleeper, other) = (test.attach(), test.attach());
    test.heap.set_arena_limits(ArenaLimits::of_hard(1));
    let live = fill_medium(sleeper, 4096, ARENA_BYTES);
    assert!(alloc_run(test.heap, run_of(20)).is_none());
    // Freed into the sleeper's pools, which it does not collect.
    free_all(other, live);
    other.shrink();
    let run = alloc_run(test.heap, run_of(20)).expect("what was freed");
    test.heap.free_run(run.start.addr().get(), 20).expect("a run");
    sleeper.release();
    other.release();
    assert_eq!(test.check().blocks_live(), 0);
}

#[test]
fn medium_blocks_that_others_free_come_home_and_parked_pools_are_stolen() {
    let test = TestHeap::new();
    let (owner, other) = (test.attach(), test.attach());
    for block_bytes in [600, 4096, 4608, 32_768] {
        let index = medium(block_bytes).number();
        let live = fill_medium(owner, block_bytes, 2 * ARENA_BYTES);
        let pools = test.check().medium[index].pools;
        free_all(other, live);
        other.shrink();
        // Pools with blocks in the owner's magazine, and pools that wait in its inbox: at most 1 MiB.
        let left = test.check().medium[index].pools * medium(block_bytes).pool_bytes();
        assert!(left <= (1 << 20) + (1 << 19), "{block_bytes}: {left} bytes of {pools} pools");
        let keeper = test.attach();
        let mut live = fill_medium(keeper, block_bytes, ARENA_BYTES);
        let mut kept = Vec::new();
        // One block of each pool stays.
        let mut last_pool = 0;
        live.retain(|block| {
            let pool = block.start.addr() / medium(block_bytes).pool_bytes();
            let is_first = pool != std::mem::replace(&mut last_pool, pool);
            if is_first {
                kept.push((block.start, block.class));
            }
            !is_first
        });
        free_all(keeper, live);
        keeper.release();
        let before = test.check().medium[index].pools;
        let more = fill_medium(other, block_bytes, ARENA_BYTES / 4);
        let after = test.check().medium[index].pools;
        assert!(after <= before + 1, "{block_bytes}: {after} pools, {before} before, of the parked set");
        free_all(other, more);
        for (start, class) in kept {
            // SAFETY: live since they were allocated.
            unsafe { other.free(class, start) };
        }
        other.shrink();
        owner.shrink();
    }
    owner.release();
    other.release();
    test.purge();
    assert_eq!(test.check().blocks_live(), 0);
}

#[test]
fn a_threads_medium_cache_is_bounded_in_bytes() {
    let test = TestHeap::new();
    let cache = test.attach();
    let live: Vec<_> = MediumClass::all().map(|class| fill_medium(cache, class.block_bytes(), 1 << 20)).collect();
    live.into_iter().rev().for_each(|live| free_all(cache, live));
    let cached: usize = test.check().medium.iter().map(|class| class.blocks_cached * class.block_bytes).sum();
    let magazines = |class: MediumClass| MEDIUM_MAGAZINE_BYTES_MAX.max(8 * class.block_bytes());
    let bound = MediumClass::all().map(magazines).sum::<usize>() + MEDIUM_DEPOT_BYTES_MAX;
    assert!(cached <= bound, "{cached} bytes, {bound} allowed");
    // Blocks that are not used any more go home in time.
    let used = medium(576);
    for _ in 0..if cfg!(miri) { 10 } else { 3_000 } {
        // Without looking at the contents, which takes longest.
        let blocks: Vec<_> = (0..300).map(|_| cache.alloc(used, Request::of_bytes(576))).collect();
        // SAFETY: allocated just above.
        blocks.into_iter().for_each(|block| unsafe { cache.free(used, block) });
    }
    let cached: usize = test.check().medium.iter().skip(1).map(|class| class.blocks_cached * class.block_bytes).sum();
    assert!(cached <= 64 << 10, "{cached} bytes");
    cache.release();
    assert_eq!(test.check().blocks_live(), 0);
}

#[test]
fn fresh_and_purged_medium_memory_is_known_to_be_zero() {
    let test = TestHeap::new();
    let cache = test.attach();
    for block_bytes in [600, 5000, 32_768] {
        for _ in 0..3 {
            let live: Vec<_> =
                (0..100).map(|seed| alloc_zeroed(cache, medium(block_bytes), seed).expect("memory")).collect();
            test.check_memory();
            free_all(cache, live);
            cache.shrink();
            test.purge();
        }
    }
    for _ in 0..3 {
        let run = alloc_run(test.heap, run_of(20)).expect("memory");
        assert!(run.zeroed, "all was purged");
        assert_zero(run.start.as_ptr(), 20 * POOL_BYTES);
        fill_bytes(run.start.as_ptr(), 20 * POOL_BYTES, 1);
        test.heap.free_run(run.start.addr().get(), 20).expect("a run");
        let again = alloc_run(test.heap, run_of(20)).expect("memory");
        assert!(!again.zeroed, "used before");
        test.heap.free_run(again.start.addr().get(), 20).expect("a run");
        test.purge();
    }
    cache.release();
}

#[test]
fn few_medium_blocks_left_of_a_peak_keep_little_memory() {
    let test = TestHeap::new();
    let cache = test.attach();
    let mut live: Vec<_> =
        [2048, 5120, 10_240, 32_768].map(|bytes| fill_medium(cache, bytes, 24 << 20)).into_iter().flatten().collect();
    let mut number = 0;
    let kept: Vec<_> = live
        .extract_if(.., |_| {
            number += 1;
            number % 100 == 0
        })
        .collect();
    let kept_bytes: usize = kept.iter().map(|block| block.class.block_bytes()).sum();
    free_all(cache, live);
    cache.shrink();
    let resident = test.memory.resident_bytes();
    // Each block that stays keeps the rest of its eighth of a pool, too. Besides, memory may be kept for the next need:
    // the larger classes had 72 MiB at the peak, which sank by one for each two of their pools that came back.
    let bound = 6 * kept_bytes + (48 << 20) + DIRTY_POOLS_MIN * POOL_BYTES;
    assert!(!test.memory.purges_parts() || resident <= bound, "{resident} bytes, {bound} allowed");
    test.purge();
    let resident = test.memory.resident_bytes();
    assert!(!test.memory.purges_parts() || resident <= 6 * kept_bytes, "{resident} bytes, {kept_bytes} in use");
    kept.iter().for_each(Live::verify);
    free_all(cache, kept);
    cache.release();
    test.purge();
    assert_eq!(test.check().arenas_mapped, 0);
}

#[test]
#[cfg_attr(windows, ignore = "memory is committed there")]
fn a_run_grows_and_shrinks_where_it_lies_if_its_neighbours_let_it() {
    let test = TestHeap::without_commits();
    let first = alloc_run(test.heap, run_of(4)).expect("memory").start.as_ptr();
    fill_bytes(first, 4 * POOL_BYTES, 7);
    assert_eq!(test.heap.resize_run(first.addr(), 4, 9), Ok(true));
    verify_bytes(first, 4 * POOL_BYTES, 7);
    let behind = alloc_run(test.heap, run_of(2)).expect("memory").start.as_ptr();
    assert_eq!(behind.addr(), first.addr() + 9 * POOL_BYTES, "first fit");
    assert_eq!(test.heap.resize_run(first.addr(), 9, 10), Ok(false));
    assert_eq!(test.heap.resize_run(first.addr(), 9, 3), Ok(true));
    let between = alloc_run(test.heap, run_of(6)).expect("memory").start.as_ptr();
    assert_eq!(between.addr(), first.addr() + 3 * POOL_BYTES);
    assert_eq!(test.check().runs_live, 3);
    let aligned = alloc_run(test.heap, RunSize { pools: 3, align_pools: 16 }).expect("memory").start.as_ptr();
    assert!(aligned.addr().is_multiple_of(16 * POOL_BYTES));
    for (start, pools) in [(first, 3), (behind, 2), (between, 6), (aligned, 3)] {
        test.heap.free_run(start.addr(), pools).expect("a run");
    }
    test.purge();
    assert_eq!(test.check().arenas_mapped, 0);
}

#[test]
fn what_is_no_run_or_another_one_is_not_freed() {
    let test = TestHeap::new();
    let cache = test.attach();
    let run = alloc_run(test.heap, run_of(4)).expect("memory").start.addr().get();
    let small = alloc(cache, class(64), 1).expect("memory");
    let block = alloc(cache, medium(8192), 1).expect("memory");
    let free = |address, pools| test.heap.free_run(address, pools);
    assert_eq!(free(run, 3), Err(Impossible::OtherClass));
    assert_eq!(free(run + POOL_BYTES, 3), Err(Impossible::NoBlockStart));
    assert_eq!(free(run + 8, 4), Err(Impossible::NoBlockStart));
    assert_eq!(free(small.start.addr(), 1), Err(Impossible::OtherClass));
    assert_eq!(free(block.start.addr(), 1), Err(Impossible::OtherClass));
    assert_eq!(free(usize::MAX / 4, 1), Err(Impossible::NoArena));
    assert_eq!(free(run, 4), Ok(()));
    assert_eq!(free(run, 4), Err(Impossible::NoPool));
    assert_eq!(test.heap.resize_run(run, 4, 5), Err(Impossible::NoPool));
    small.free(cache);
    block.free(cache);
    cache.release();
}

#[test]
fn the_memory_of_runs_goes_back_when_it_is_too_much_and_never_under_the_heaps_lock() {
    let test = TestHeap::new();
    let pools = RUN_MAX_BYTES / POOL_BYTES;
    let runs: Vec<_> = (0..100).map(|_| alloc_run(test.heap, run_of(pools)).expect("memory").start.as_ptr()).collect();
    runs.iter().for_each(|&run| fill_bytes(run, RUN_MAX_BYTES, 3));
    for run in runs {
        test.heap.free_run(run.addr(), pools).expect("a run");
    }
    let stats = test.check();
    test.check_memory();
    // Half of the peak, to the next arena.
    assert!(test.memory.resident_bytes() <= 100 * RUN_MAX_BYTES / 2 + ARENA_BYTES, "{stats}");
    test.purge();
    assert_eq!(test.check().arenas_mapped, 0);
}
