//! When magazines grow, and what becomes of their arrays.

use super::test_heap::{TestHeap, alloc, alloc_zeroed, class, fill, slots, slow_calls};
use crate::base::config::{CLASS_COUNT, DEPOT_BLOCKS_MAX, MAGAZINE_BYTES_MAX, MAGAZINE_SLOTS_MAX, MAGAZINE_SLOTS_MIN};
use crate::base::size_class::SizeClass;
use crate::cache::capacity_max;

#[test]
fn the_largest_magazine_has_the_most_slots_whose_blocks_are_within_the_limit() {
    for class in SizeClass::all() {
        let (slots, block_bytes) = (capacity_max(class), class.block_bytes());
        assert!(slots.is_power_of_two() && slots * block_bytes <= MAGAZINE_BYTES_MAX, "{class:?}");
        assert!(slots == MAGAZINE_SLOTS_MAX || 2 * slots * block_bytes > MAGAZINE_BYTES_MAX, "{class:?}");
    }
}

#[test]
fn a_magazine_is_small_at_its_first_slow_call_and_doubles_at_each_up_to_its_limit() {
    for class in SizeClass::all() {
        let test = TestHeap::new();
        let cache = test.attach();
        let mut live = Vec::new();
        let (mut before, mut grown) = (MAGAZINE_SLOTS_MIN, 0);
        while grown < 200 {
            live.push(alloc(cache, class, 0).expect("memory"));
            let now = slots(cache, class);
            assert!(now == before || now == 2 * before);
            match slow_calls(cache) {
                1 => assert_eq!(now, MAGAZINE_SLOTS_MIN, "{class:?}"),
                2 => assert_eq!(now, (2 * MAGAZINE_SLOTS_MIN).min(capacity_max(class)), "{class:?}"),
                _ => grown += 1,
            }
            before = now;
        }
        assert!(before > MAGAZINE_SLOTS_MIN || capacity_max(class) == MAGAZINE_SLOTS_MIN);
        live.extend(fill(cache, class.block_bytes(), 2000 * class.block_bytes()));
        assert_eq!(slots(cache, class), capacity_max(class));
        live.into_iter().for_each(|block| block.free(cache));
        cache.shrink();
        assert_eq!(slots(cache, class), MAGAZINE_SLOTS_MIN);
        cache.release();
    }
}

#[test]
fn arrays_of_magazines_and_chunks_are_used_again() {
    let test = TestHeap::new();
    let cache = test.attach();
    let metadata_bytes = || test.heap.with_state(|state, _| state.metadata.mapped_bytes());
    let mut after_one = 0;
    for round in 0..100 {
        for class in SizeClass::all().step_by(CLASS_COUNT / 8) {
            let live = fill(cache, class.block_bytes(), 4 * capacity_max(class) * class.block_bytes());
            live.into_iter().for_each(|block| block.free(cache));
        }
        test.check();
        cache.shrink();
        if round == 0 {
            after_one = metadata_bytes();
        }
    }
    assert_eq!(metadata_bytes(), after_one);
    cache.release();
}

#[test]
fn chunks_of_a_class_serve_others_when_its_depot_was_flushed() {
    let test = TestHeap::new();
    let cache = test.attach();
    let metadata_bytes_after = |class: SizeClass| {
        fill(cache, class.block_bytes(), 2 * DEPOT_BLOCKS_MAX * 64).into_iter().for_each(|block| block.free(cache));
        cache.shrink();
        test.heap.with_state(|state, _| state.metadata.mapped_bytes())
    };
    // All of these classes have chunks of the same size; the first class needs the most.
    let mut classes = SizeClass::all().filter(|&class| capacity_max(class) == MAGAZINE_SLOTS_MAX);
    let after_first = classes.next().map(metadata_bytes_after);
    classes.for_each(|class| assert_eq!(Some(metadata_bytes_after(class)), after_first, "{class:?}"));
    cache.release();
}

#[test]
fn a_full_magazine_stows_and_an_empty_one_takes_back_half_of_its_blocks_at_a_time() {
    let class = SizeClass::of_size_align(64, 1).expect("small");
    let test = TestHeap::new();
    let cache = test.attach();
    let capacity = capacity_max(class);
    let blocks = 8 * capacity;
    fill(cache, class.block_bytes(), blocks * class.block_bytes()).into_iter().for_each(|block| block.free(cache));
    // By now the magazine has its largest size, and the depot has the blocks that do not fit into it.
    let before = slow_calls(cache);
    let live = fill(cache, class.block_bytes(), blocks * class.block_bytes());
    let allocs = slow_calls(cache) - before;
    live.into_iter().for_each(|block| block.free(cache));
    let frees = slow_calls(cache) - before - allocs;
    let chunks = blocks / (capacity / 2 - 1);
    for calls in [allocs, frees] {
        assert!((chunks as u64 - 2..=chunks as u64 + 2).contains(&calls), "{calls} slow calls, {chunks} chunks");
    }
    cache.release();
}

#[test]
fn a_zeroed_block_comes_alone_unless_it_was_used_before() {
    let test = TestHeap::new();
    let cache = test.attach();
    let block = alloc_zeroed(cache, class(64), 0).expect("memory");
    assert_eq!(test.blocks_cached(), 0);
    block.free(cache);
    cache.shrink();
    let block = alloc_zeroed(cache, class(64), 0).expect("memory");
    assert!(test.blocks_cached() > 0);
    block.free(cache);
    cache.release();
}
