//! Knocks: threads that free collect for an owner that does not.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;

use super::test_heap::{Live, TestHeap, class, fill};
use crate::base::config::{INBOX_KNOCK_POOLS, POOL_BYTES};
use crate::cache::ThreadCache;
use crate::heap::pool::Slot;

#[test]
fn half_a_pool_that_others_freed_comes_home_although_its_owner_sleeps() {
    // One pool: too few for a knock by their number. Its blocks are freed one by one, or one magazine at a time.
    for (block_bytes, one_by_one) in [(512, true), (64, false)] {
        let test = TestHeap::new();
        let (sleeper, other) = (test.attach(), test.attach());
        let class = class(block_bytes);
        let half = class.pool_blocks() / 2;
        let live = fill(sleeper, block_bytes, class.pool_blocks() * block_bytes);
        let blocks_remote = || test.check().classes[class.number()].blocks_remote;
        for (number, block) in live.into_iter().enumerate() {
            block.free(other);
            if one_by_one {
                other.set.enter(test.heap, |inside| other.flush_all(inside));
                assert_eq!(blocks_remote(), (number + 1) % half);
            }
        }
        other.shrink();
        assert!(blocks_remote() < half);
        sleeper.release();
        other.release();
        assert_eq!(test.check().blocks_live(), 0);
    }
}

/// Pools in the inbox of a cache's set.
fn pools_in_inbox(test: &TestHeap, cache: &ThreadCache) -> usize {
    let _stopped = test.heap.stop();
    // SAFETY: all doors are held.
    unsafe { cache.set.inbox.peek_all() }.count()
}

/// Frees `live` by several threads at once, each its share, while another thread enters and leaves the owner's door.
fn free_by_threads(test: &TestHeap, threads: usize, mut live: Vec<Live>, owner: &ThreadCache) {
    let freeing = AtomicUsize::new(threads);
    let freeing = &freeing;
    thread::scope(|scope| {
        for left in (1..=threads).rev() {
            let share = live.split_off(live.len() - live.len() / left);
            let cache = test.attach();
            scope.spawn(move || {
                share.into_iter().for_each(|block| block.free(cache));
                cache.release();
                freeing.fetch_sub(1, Relaxed);
            });
        }
        while freeing.load(Relaxed) > 0 {
            owner.set.enter(test.heap, |_| thread::yield_now());
        }
    });
}

#[test]
fn a_thread_that_leaves_a_door_collects_for_those_that_found_it_taken() {
    let test = TestHeap::new();
    let (sleeper, other) = (test.attach(), test.attach());
    let live = fill(sleeper, 512, 2 * INBOX_KNOCK_POOLS as usize * POOL_BYTES);
    sleeper.set.enter(test.heap, |_| {
        live.into_iter().for_each(|block| block.free(other));
        other.shrink();
    });
    assert_eq!(pools_in_inbox(&test, sleeper), 0);
    sleeper.release();
    other.release();
}

#[test]
fn no_knock_at_a_sleeping_owner_is_lost() {
    const POOLS: usize = 64;
    let rounds = std::env::var("PYMALLOC_KNOCK_ROUNDS").map_or(300, |rounds| rounds.parse().expect("a number"));
    let mut random = 1_usize;
    for round in 0..rounds {
        let test = TestHeap::new();
        let sleeper = test.attach();
        let mut live = fill(sleeper, 128, POOLS * POOL_BYTES);
        for last in (1..live.len()).rev() {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            live.swap(last, (random >> 32) % (last + 1));
        }
        free_by_threads(&test, 8, live, sleeper);
        let left = pools_in_inbox(&test, sleeper);
        assert!(left < INBOX_KNOCK_POOLS as usize, "{left} pools were not collected in round {round}");
        sleeper.release();
        assert_eq!(test.check().blocks_live(), 0);
    }
}

#[test]
fn a_knock_while_all_slow_paths_are_being_stopped_is_answered_when_they_go_on() {
    let test = TestHeap::new();
    let (sleeper, other) = (test.attach(), test.attach());
    // A stop takes the newest set's door first; this one is the newest.
    let newest = test.attach();
    let live = fill(newest, 512, 2 * INBOX_KNOCK_POOLS as usize * POOL_BYTES);
    thread::scope(|scope| {
        other.set.enter(test.heap, |inside| {
            let stopping = scope.spawn(|| drop(test.heap.stop()));
            while !other.set.door.is_awaited() {
                thread::yield_now();
            }
            // The stop has the door of `newest` by now, but `other` is still inside its own door.
            for block in &live {
                inside.give(class(512), &[Slot::new(block.start)]);
            }
            assert!(!stopping.is_finished());
        });
    });
    assert_eq!(pools_in_inbox(&test, newest), 0);
    assert_eq!(test.check().blocks_live(), 0);
    [sleeper, other, newest].into_iter().for_each(ThreadCache::release);
}
