//! Blocks that a thread's cache no longer needs return to their pools while the thread works on other classes.

#[cfg(not(feature = "hardened"))]
use super::test_heap::alloc;
use super::test_heap::{TestHeap, class, fill, slots, slow_calls};
#[cfg(not(feature = "hardened"))]
use crate::base::config::VISITS_PER_CHECK;
use crate::base::config::{
    ARENA_BYTES, CLASS_COUNT, CLOSED_SLOTS_MAX, LARGE_BYTES_PER_ROUND, MAGAZINE_SLOTS_MIN, POOL_BYTES,
    SLOW_CALLS_PER_VISIT, VISITS_PER_ROUND,
};
use crate::base::size_class::SizeClass;
use crate::cache::hardened::QUARANTINE_SLOTS;
use crate::cache::{ThreadCache, capacity_max};

/// Works on one class until every class has been visited `times` times.
fn visit_all(cache: &ThreadCache, times: u64) {
    let end = slow_calls(cache) + times * CLASS_COUNT as u64 * SLOW_CALLS_PER_VISIT;
    while slow_calls(cache) < end {
        fill(cache, 512, 2 * POOL_BYTES).into_iter().for_each(|block| block.free(cache));
    }
}

fn cached(cache: &ThreadCache, class: SizeClass) -> usize {
    cache.set.door.lock().with(|pools| cache.all_blocks(class, pools.door()).count())
}

#[test]
fn a_class_that_is_not_used_any_more_keeps_nothing_after_two_visits() {
    let test = TestHeap::new();
    let cache = test.attach();
    fill(cache, 64, 16 * POOL_BYTES).into_iter().for_each(|block| block.free(cache));
    assert!(cached(cache, class(64)) > 1000);
    visit_all(cache, 2);
    assert_eq!(cached(cache, class(64)), 0);
    assert_eq!(test.check().classes[class(64).number()].pools, 0);
    // Then its array is given back.
    visit_all(cache, 2);
    assert_eq!(slots(cache, class(64)), MAGAZINE_SLOTS_MIN);
    test.check();
    cache.release();
}

// The blocks in the quarantine of the feature `hardened` are not in use, either; their number here depends on chance.
#[test]
fn what_is_cached_goes_home_while_the_thread_makes_large_requests_only() {
    let test = TestHeap::new();
    let cache = test.attach();
    for bytes in [16, 64, 512] {
        fill(cache, bytes, 16 * POOL_BYTES).into_iter().for_each(|block| block.free(cache));
        assert_ne!(cached(cache, class(bytes)), 0);
    }
    let calls = slow_calls(cache);
    // While the door is held, nothing is done, and no thread waits.
    cache.set.door.lock().with(|_| cache.note_large(CLASS_COUNT * LARGE_BYTES_PER_ROUND, || false));
    // Two visits to each class, by large requests of half a round's bytes each.
    (0..4 * CLASS_COUNT / VISITS_PER_ROUND).for_each(|_| cache.note_large(LARGE_BYTES_PER_ROUND / 2, || false));
    for bytes in [16, 64, 512] {
        assert_eq!(cached(cache, class(bytes)), 0);
    }
    assert_eq!(slow_calls(cache), calls, "none of it is taken for work on small blocks");
    test.check();
    cache.release();
}

#[test]
#[cfg(not(feature = "hardened"))]
fn what_a_class_never_goes_below_goes_home_although_it_is_in_use() {
    let test = TestHeap::new();
    let cache = test.attach();
    let live = fill(cache, 64, 16 * POOL_BYTES);
    live.into_iter().for_each(|block| block.free(cache));
    let before = cached(cache, class(64));
    // One visit in `VISITS_PER_CHECK` sends all blocks home, and the next allocation brings half a magazine.
    for _ in 0..6 * VISITS_PER_CHECK - 1 {
        // A few blocks at a time: the class is in use, but most of its cached blocks are not.
        let few: Vec<_> = (0..10).map(|seed| alloc(cache, class(64), seed).expect("memory")).collect();
        few.into_iter().for_each(|block| block.free(cache));
        visit_all(cache, 1);
    }
    let after = cached(cache, class(64));
    assert!(before > 1000 && after <= 40 + QUARANTINE_SLOTS, "{after} of {before} blocks");
    test.check();
    cache.release();
}

#[test]
fn blocks_of_other_threads_do_not_stay_in_a_class_that_is_only_freed() {
    let test = TestHeap::new();
    let (cache, other) = (test.attach(), test.attach());
    fill(other, 64, 4 * POOL_BYTES).into_iter().for_each(|block| block.free(cache));
    assert!(cached(cache, class(64)) > 0);
    visit_all(cache, 1);
    assert_eq!(cached(cache, class(64)), 0);
    test.check();
    cache.release();
    other.release();
}

#[test]
fn phases_of_one_class_after_the_other_leave_no_more_than_twice_what_is_live() {
    let test = TestHeap::new();
    let caches: Vec<_> = (0..4).map(|_| test.attach()).collect();
    let live_bytes = 16 << 20;
    let mut most = 0;
    // Without optimisation, every fourth class: a phase takes half a second then.
    let step = if cfg!(debug_assertions) { 4 } else { 1 };
    for (number, class) in SizeClass::all().enumerate().step_by(step) {
        let mut random = number + 1;
        let mut phases: Vec<_> =
            caches.iter().map(|cache| fill(cache, class.block_bytes(), live_bytes / caches.len())).collect();
        for live in &mut phases {
            for last in (1..live.len()).rev() {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                live.swap(last, (random >> 32) % (last + 1));
            }
        }
        // Freed by the neighbour, in random order.
        for (live, freer) in phases.into_iter().zip(caches.iter().cycle().skip(1)) {
            live.into_iter().for_each(|block| block.free(freer));
        }
        most = most.max(test.memory.resident_bytes());
    }
    let bound = 2 * live_bytes + caches.len() * (256 << 10);
    println!("{} KiB at most, bound {} KiB", most >> 10, bound >> 10);
    assert!(most <= bound, "{most} bytes are resident, more than {bound}");
    test.check();
    caches.into_iter().for_each(ThreadCache::release);
}

#[test]
fn a_magazine_has_few_slots_at_the_end_of_a_long_row_of_frees_and_grows_again_with_allocations() {
    let test = TestHeap::new();
    let cache = test.attach();
    let live = fill(cache, 64, ARENA_BYTES);
    assert_eq!(slots(cache, class(64)), capacity_max(class(64)));
    live.into_iter().for_each(|block| block.free(cache));
    assert_eq!(slots(cache, class(64)), CLOSED_SLOTS_MAX);
    assert!(cached(cache, class(64)) <= CLOSED_SLOTS_MAX + QUARANTINE_SLOTS);
    test.check();
    let live = fill(cache, 64, 4 * POOL_BYTES);
    assert_eq!(slots(cache, class(64)), capacity_max(class(64)));
    live.into_iter().for_each(|block| block.free(cache));
    cache.release();
}
