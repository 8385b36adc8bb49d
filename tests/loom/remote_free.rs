//! Remote frees into a pool, against the drains of its owner.

use loom::thread;
use std::sync::Arc;

use crate::world::World;
use crate::{check, check_bounded};

/// Two words, two arrivals, and a drain that may come before, between and after them.
#[test]
fn a_remote_free_against_a_drain_loses_no_block_and_doubles_none() {
    check(|| {
        let world = Arc::new(World::new(1, &[0], 4));
        let other = world.clone();
        let freer = thread::spawn(move || {
            other.free(0, 0);
            other.free_group(0, &[1, 3]);
        });
        world.enter_and_collect(0);
        freer.join().unwrap();
        assert_eq!(world.settle(1), 3);
    });
}

/// The first arrival pushes the pool for both threads, or each thread pushes it for itself.
#[test]
fn frees_of_two_threads_into_one_pool_both_reach_the_owner() {
    check_bounded(4, || {
        let world = Arc::new(World::new(1, &[0], 3));
        let freers = [0, 1].map(|block| {
            let world = world.clone();
            thread::spawn(move || world.free(0, block))
        });
        world.enter_and_collect(0);
        freers.into_iter().for_each(|freer| freer.join().unwrap());
        assert_eq!(world.settle(1), 2);
    });
}

/// A bit may be collected before its count has arrived. The block is then taken again while the thread that freed it is
/// still between the two steps.
#[test]
fn a_block_is_left_by_its_last_user_before_its_next_one_takes_it() {
    check_bounded(4, || {
        let world = Arc::new(World::new(1, &[0], 2));
        let freers = [0, 1].map(|block| {
            let world = world.clone();
            thread::spawn(move || world.free(0, block))
        });
        let mut taken = 0;
        world.sets[0].door.lock().with(|lists| {
            world.collect(0, lists);
            while world.take(lists).is_some() {
                taken += 1;
            }
        });
        freers.into_iter().for_each(|freer| freer.join().unwrap());
        world.settle(taken);
    });
}

/// A flag in place of the count would fail here: a thread has set its bit but not finished its free, while the owner
/// has collected the bit and finds the pool empty.
#[test]
fn a_pool_whose_blocks_are_all_counted_home_has_no_thread_left_inside() {
    check_bounded(4, || {
        let world = Arc::new(World::new(1, &[0], 2).unmapping());
        let freers = [0, 1].map(|block| {
            let world = world.clone();
            thread::spawn(move || world.free(0, block))
        });
        world.enter_and_collect(0);
        world.enter_and_collect(0);
        freers.into_iter().for_each(|freer| freer.join().unwrap());
        assert_eq!(world.settle(0), 2);
    });
}

/// One thread frees the last two blocks one by one: the owner may unmap only after the second free.
#[test]
fn a_pool_is_unmapped_after_the_last_access_of_a_thread_that_freed_its_last_block() {
    check(|| {
        let world = Arc::new(World::new(1, &[0], 2).unmapping());
        let other = world.clone();
        let freer = thread::spawn(move || {
            other.free(0, 0);
            other.free(0, 1);
        });
        world.enter_and_collect(0);
        world.enter_and_collect(0);
        freer.join().unwrap();
        assert_eq!(world.settle(0), 2);
    });
}

/// Two pools are in one inbox. The link of the first belongs to the taker until it has read it, although the pool can
/// be pushed again right after its count was collected.
#[test]
fn a_pool_pushed_again_while_its_inbox_is_drained_loses_no_other_pool() {
    check_bounded(4, || {
        let world = Arc::new(World::new(1, &[0, 0], 2));
        let freers = [0, 1].map(|first| {
            let world = world.clone();
            thread::spawn(move || {
                world.free(first, 0);
                world.free(first, 1);
            })
        });
        world.enter_and_collect(0);
        freers.into_iter().for_each(|freer| freer.join().unwrap());
        assert_eq!(world.settle(0), 4);
    });
}

/// The second thread's `fetch_or` finds it, or the drain, which finds the block free on the owner's side.
#[test]
fn a_block_freed_by_two_threads_is_seen_by_one_of_them_or_by_the_drain() {
    check_bounded(4, || {
        let world = Arc::new(World::new(1, &[0], 2));
        let freers = [(); 2].map(|()| {
            let world = world.clone();
            thread::spawn(move || world.free_unused(0, 0))
        });
        world.enter_and_collect(0);
        freers.into_iter().for_each(|freer| freer.join().unwrap());
        world.enter_and_collect(0);
        assert!(world.double_free_seen());
    });
}
