//! Bare sets: the sets in which ended threads left nothing are neither walked nor stopped.

use std::sync::atomic::Ordering::Relaxed;

use super::test_heap::{Live, TestHeap, alloc, class, fill, one_in};
use crate::base::config::{POOL_BYTES, WARM_CACHES_MAX};
use crate::cache::ThreadCache;
use crate::cache::hardened::QUARANTINE_SLOTS;
use crate::pool_set::knock_at_all;
use crate::purge::tick::Ticker;

/// Starts `threads` threads at once, each of which allocates and frees.
fn start(test: &TestHeap, threads: usize) -> Vec<&'static ThreadCache> {
    let caches: Vec<_> = (0..threads).map(|_| test.attach()).collect();
    for cache in &caches {
        fill(cache, 64, POOL_BYTES).into_iter().for_each(|block| block.free(cache));
    }
    caches
}

/// The number of doors that a stop takes, without the spare set's, and the number of sets that a walk meets.
fn stopped_and_walked(test: &TestHeap, caches: &[&ThreadCache]) -> (usize, usize) {
    let _stopped = test.heap.stop();
    let stopped = caches.iter().filter(|cache| cache.set.is_stopped.load(Relaxed) != 0).count();
    (stopped, test.heap.sets().count() - 1)
}

#[test]
fn ended_threads_of_which_nothing_is_left_are_neither_stopped_nor_walked() {
    let test = TestHeap::new();
    let mut caches = start(&test, 300);
    assert_eq!(stopped_and_walked(&test, &caches), (300, 300));
    let running = caches.split_off(297);
    caches.iter().for_each(|cache| cache.release());
    let all: Vec<_> = caches.iter().chain(&running).copied().collect();
    let few = WARM_CACHES_MAX + running.len();
    assert_eq!(stopped_and_walked(&test, &all), (few, few));
    let stats = test.check();
    assert_eq!((stats.caches_live, stats.caches_parked), (3, 297));
    test.purge();
    assert_eq!(stopped_and_walked(&test, &all), (3, 3));
    // All sets come back, each once and undamaged.
    let again = start(&test, 298);
    assert_eq!(again.iter().filter(|cache| caches.iter().any(|&old| std::ptr::eq(old, **cache))).count(), 297);
    assert_eq!(test.check().caches_live, 301);
    let all: Vec<_> = again.iter().chain(&running).copied().collect();
    assert_eq!(stopped_and_walked(&test, &all), (301, 301));
    all.into_iter().for_each(ThreadCache::release);
    test.check();
}

/// A way in which the last blocks of an ended thread return to their pools.
type Bringing = fn(&TestHeap, &ThreadCache, Vec<Live>);

#[test]
fn an_ended_thread_is_walked_until_its_last_block_is_home_whoever_brings_it() {
    let free = |cache: &ThreadCache, live: Vec<Live>| live.into_iter().for_each(|block| block.free(cache));
    let ways: [(&str, Bringing); 4] = [
        ("a knock", |test, other, live| {
            live.into_iter().for_each(|block| block.free(other));
            other.shrink();
            // The blocks that are left may be too few for a knock.
            knock_at_all(test.heap);
        }),
        ("a purge", |test, other, live| {
            let (few, rest) = one_in(live.len() / 2, live);
            rest.into_iter().for_each(|block| block.free(other));
            other.shrink();
            few.into_iter().for_each(|block| block.free(other));
            other.shrink();
            test.purge();
        }),
        ("a purge thread", |test, other, live| {
            live.into_iter().for_each(|block| block.free(other));
            other.shrink();
            let mut ticker = Ticker::new(test.heap, 0);
            (0..2).for_each(|_| ticker.tick(|| true));
        }),
        ("a thief", |test, other, live| {
            let (kept, freed) = one_in(8, live);
            freed.into_iter().for_each(|block| block.free(other));
            other.shrink();
            let more = alloc(other, class(512), 1).expect("memory");
            // Its only pool belongs to another set now.
            assert!(test.check().blocks_live() > kept.len());
            kept.into_iter().chain([more]).for_each(|block| block.free(other));
        }),
    ];
    for (way, bring) in ways {
        let test = TestHeap::new();
        let (ended, other) = (test.attach(), test.attach());
        let live = fill(ended, 512, POOL_BYTES);
        ended.release();
        // A set with a warm cache is not bare, even if it owns nothing.
        ended.set.visit(test.heap, |inside| ended.flush_behind_door(inside));
        let caches = [ended, other];
        assert_eq!(stopped_and_walked(&test, &caches), (2, 2), "{way}");
        test.check();
        bring(&test, other, live);
        assert_eq!(stopped_and_walked(&test, &caches), (1, 1), "{way}");
        test.check();
        let next = test.attach();
        assert!(std::ptr::eq(next, ended), "{way}");
        free(next, fill(next, 512, POOL_BYTES));
        other.release();
        next.release();
        assert_eq!(test.check().blocks_live(), 0);
    }
}

#[test]
fn strangers_blocks_in_an_ended_threads_cache_keep_it_on_the_walk() {
    let test = TestHeap::new();
    let (owner, ended) = (test.attach(), test.attach());
    let theirs = fill(owner, 64, (1 + 2 * QUARANTINE_SLOTS) * 64);
    let own = alloc(ended, class(64), 1).expect("memory");
    // The thread allocates from the class, so a block of another thread stays, too.
    own.free(ended);
    ended.set.enter(test.heap, |inside| ended.flush_all(inside));
    theirs.into_iter().for_each(|block| block.free(ended));
    ended.release();
    assert_eq!(stopped_and_walked(&test, &[owner, ended]), (2, 2));
    assert!(test.check().classes[class(64).number()].blocks_cached > 0);
    test.purge();
    assert_eq!(stopped_and_walked(&test, &[owner, ended]), (1, 1));
    owner.release();
}

#[test]
fn a_thread_that_comes_late_to_a_bare_set_finds_its_door_shut() {
    let test = TestHeap::new();
    let cache = test.attach();
    cache.release();
    assert_eq!(stopped_and_walked(&test, &[cache]), (0, 0));
    assert_eq!(cache.set.visit(test.heap, |_| ()), None);
    assert_eq!(cache.set.try_enter(test.heap, |_| ()), None);
    cache.set.knock(test.heap);
    test.check();
    let next = test.attach();
    assert!(std::ptr::eq(next, cache));
    assert_eq!(cache.set.visit(test.heap, |_| ()), Some(()));
    next.release();
}

#[test]
fn caches_that_come_back_are_poisoned_if_all_are() {
    let test = TestHeap::new();
    test.attach().release();
    ThreadCache::poison_all(test.heap, true);
    let cache = test.attach();
    let calls = super::test_heap::slow_calls(cache);
    fill(cache, 64, 640).into_iter().for_each(|block| block.free(cache));
    assert_eq!(super::test_heap::slow_calls(cache) - calls, 20);
    cache.release();
    ThreadCache::poison_all(test.heap, false);
    let cache = test.attach();
    fill(cache, 64, 640).into_iter().for_each(|block| block.free(cache));
    let calls = super::test_heap::slow_calls(cache);
    alloc(cache, class(64), 1).expect("memory").free(cache);
    assert_eq!(super::test_heap::slow_calls(cache), calls);
    cache.release();
}

#[test]
fn the_self_check_finds_what_is_wrong_with_bare_sets() {
    let assert_finds = |test: &TestHeap, message| {
        assert_eq!(test.try_check().expect_err("a fault was planted").message, message);
    };
    let test = TestHeap::new();
    let (ended, cache) = (test.attach(), test.attach());
    ended.release();
    test.check();
    let block = alloc(cache, class(64), 1).expect("memory");
    // SAFETY: a block of the class; the planted fault is that no thread has the cache.
    unsafe { ended.free(class(64), block.start) };
    assert_finds(&test, "a bare set's cache has a block");

    let test = TestHeap::new();
    let (ended, cache) = (test.attach(), test.attach());
    ended.release();
    ended.set.is_listed.set(false);
    assert_finds(&test, "a parked set does not know that it is");
    ended.set.is_listed.set(true);
    test.check();
    // SAFETY: shut, since it is bare.
    unsafe { ended.set.door.open() };
    assert_finds(&test, "a set is bare and its door is not shut, or the reverse");
    ended.set.door.lock().shut();
    test.check();
    cache.set.place.set(2);
    assert_finds(&test, "a set is not where the register has it");
    cache.set.place.set(1);
    test.check();
    cache.release();
}
