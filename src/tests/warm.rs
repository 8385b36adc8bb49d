//! Warm caches: the blocks that ended threads leave in their caches for the next threads.

use super::test_heap::{Live, TestHeap, alloc, class, fill, slots, slow_calls};
use crate::base::config::{CLASS_COUNT, MAGAZINE_SLOTS_MIN, WARM_BLOCKS, WARM_CACHES_MAX};
use crate::base::size_class::SizeClass;
use crate::cache::ThreadCache;
use crate::purge::tick::Ticker;

fn cached(test: &TestHeap, class: SizeClass) -> usize {
    test.check().classes[class.number()].blocks_cached
}

/// The work of a short-lived thread.
fn live_shortly(cache: &ThreadCache) {
    let live: Vec<Live> = SizeClass::all().filter_map(|class| alloc(cache, class, 1)).collect();
    assert_eq!(live.len(), CLASS_COUNT);
    live.into_iter().for_each(|block| block.free(cache));
}

#[test]
fn a_thread_starts_with_what_the_last_one_left() {
    let test = TestHeap::new();
    let first = test.attach();
    live_shortly(first);
    assert_eq!(slow_calls(first), CLASS_COUNT as u64);
    first.release();
    let next = test.attach();
    let before = slow_calls(next);
    live_shortly(next);
    assert_eq!(slow_calls(next), before);
    next.release();
}

#[test]
fn few_blocks_are_left_however_many_there_were() {
    let test = TestHeap::new();
    for blocks in [1, WARM_BLOCKS, MAGAZINE_SLOTS_MIN, 10 * MAGAZINE_SLOTS_MIN, 10_000] {
        let cache = test.attach();
        fill(cache, 64, blocks * 64).into_iter().for_each(|block| block.free(cache));
        cache.release();
        let left = cached(&test, class(64));
        assert!(0 < left && left <= WARM_BLOCKS, "{left} of {blocks}");
        // At the thread's end a larger array is given back as a whole, so that another thread's cache may have it.
        assert_eq!(slots(cache, class(64)), MAGAZINE_SLOTS_MIN);
    }
}

#[test]
fn only_so_many_caches_keep_something() {
    let test = TestHeap::new();
    let caches: Vec<&ThreadCache> = (0..3 * WARM_CACHES_MAX).map(|_| test.attach()).collect();
    caches.iter().for_each(|cache| live_shortly(cache));
    caches.into_iter().for_each(ThreadCache::release);
    let left = cached(&test, class(64));
    assert!(0 < left && left <= WARM_CACHES_MAX * WARM_BLOCKS, "{left}");
}

#[test]
fn other_threads_blocks_are_not_kept() {
    let test = TestHeap::new();
    let (owner, other) = (test.attach(), test.attach());
    // The thread frees them, and allocates nothing of the class.
    fill(owner, 64, WARM_BLOCKS * 64).into_iter().for_each(|block| block.free(other));
    owner.shrink();
    other.release();
    assert_eq!(cached(&test, class(64)), 0);
    owner.release();
}

#[test]
fn purges_and_purge_threads_empty_them() {
    let purge = |test: &TestHeap| assert!(test.purge() > 0);
    let tick_twice = |test: &TestHeap| {
        let mut ticker = Ticker::new(test.heap, 0);
        ticker.tick(|| true);
        ticker.tick(|| true);
    };
    for empty in [&purge as &dyn Fn(&TestHeap), &tick_twice] {
        let test = TestHeap::new();
        let cache = test.attach();
        live_shortly(cache);
        cache.release();
        assert_ne!(cached(&test, class(64)), 0);
        empty(&test);
        let stats = test.check();
        assert_eq!((cached(&test, class(64)), stats.arenas_mapped), (0, 0), "{stats}");
    }
}

#[test]
fn a_purge_leaves_the_next_thread_its_magazines() {
    let test = TestHeap::new();
    test.attach().release();
    let next = test.attach();
    assert!(!next.set.is_parked());
    fill(next, 64, MAGAZINE_SLOTS_MIN * 64).into_iter().for_each(|block| block.free(next));
    let left = cached(&test, class(64));
    test.purge();
    assert!(left > 0);
    assert_eq!(cached(&test, class(64)), left);
    next.release();
}
