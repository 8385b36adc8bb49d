//! Knocks: blocks that are freed while a thread holds the owner's door are collected by the thread that leaves it.

use std::sync::Arc;

use loom::sync::atomic::AtomicUsize;
use loom::thread;

use crate::check_bounded;
use crate::lock::Lock;
use crate::sync::Ordering;
use crate::world::World;

/// A wish, and a lock whose holder must see it.
struct Bell {
    wishes: AtomicUsize,
    seen: Lock<usize>,
}

impl Bell {
    fn new() -> Arc<Self> {
        Arc::new(Self { wishes: AtomicUsize::new(0), seen: Lock::new(0) })
    }

    /// As `PoolSet::enter`, for something else.
    fn visit(&self) {
        if self.seen.lock().leave() {
            self.knock();
        }
    }

    /// As `PoolSet::knock`.
    fn knock(&self) {
        while let Some(mut guard) = self.seen.lock_or_knock() {
            // Relaxed: the knock must order it.
            guard.with(|seen| *seen = self.wishes.load(Ordering::Relaxed));
            if !guard.leave() {
                return;
            }
        }
    }

    fn wish(&self) {
        self.wishes.fetch_add(1, Ordering::Relaxed);
        self.knock();
    }

    fn assert_seen(&self, wishes: usize) {
        let mut guard = self.seen.lock();
        guard.with(|seen| assert_eq!(*seen, wishes, "a knock was lost"));
        assert!(!guard.leave());
    }
}

#[test]
fn the_thread_that_leaves_a_lock_answers_a_knock_and_sees_what_it_is_for() {
    check_bounded(3, || {
        let bell = Bell::new();
        let wishing = [(); 2].map(|()| {
            let bell = bell.clone();
            thread::spawn(move || bell.wish())
        });
        bell.visit();
        wishing.into_iter().for_each(|thread| thread.join().unwrap());
        bell.assert_seen(2);
    });
}

/// The sleeper changes the word, too: it must not wipe a knock.
#[test]
fn a_thread_that_falls_asleep_on_a_lock_wipes_no_knock_and_a_knock_loses_no_wake_up() {
    check_bounded(4, || {
        let bell = Bell::new();
        let others = [false, true].map(|wishes| {
            let bell = bell.clone();
            thread::spawn(move || if wishes { bell.wish() } else { bell.visit() })
        });
        bell.visit();
        others.into_iter().for_each(|thread| thread.join().unwrap());
        bell.assert_seen(1);
    });
}

/// Here a thread knocks from the first pool in an inbox on, so no pool may stay in it.
#[test]
fn what_two_threads_freed_while_the_owner_leaves_its_door_is_all_collected() {
    check_bounded(3, || {
        let world = Arc::new(World::new(1, &[0, 0], 1).knocking_from(1));
        let freers = [0, 1].map(|pool| {
            let world = world.clone();
            thread::spawn(move || world.free(pool, 0))
        });
        world.enter(0, |_| ());
        freers.into_iter().for_each(|freer| freer.join().unwrap());
        assert_eq!(world.pools_waiting(0), 0, "a knock was lost");
        assert_eq!(world.settle(0), 2);
    });
}

/// Here a thread knocks from the second pool on. So at rest fewer than two pools wait, whichever pushes met the owner's
/// own collection.
#[test]
fn fewer_pools_wait_at_rest_than_an_inbox_is_knocked_at_from() {
    check_bounded(3, || {
        let world = Arc::new(World::new(1, &[0, 0, 0], 1).knocking_from(2));
        let freers = [&[0, 1][..], &[2]].map(|pools| {
            let world = world.clone();
            thread::spawn(move || pools.iter().for_each(|&pool| world.free(pool, 0)))
        });
        world.enter(0, |lists| world.collect(0, lists));
        freers.into_iter().for_each(|freer| freer.join().unwrap());
        assert!(world.pools_waiting(0) < 2, "a knock was lost");
        assert_eq!(world.settle(0), 3);
    });
}

/// As when the slow paths are stopped: all doors are taken without a guard, then released, and only then are the knocks
/// answered.
#[test]
fn a_knock_at_a_door_that_is_taken_to_stop_all_is_answered_when_all_go_on() {
    check_bounded(4, || {
        let world = Arc::new(World::new(2, &[0, 1], 1).knocking_from(1));
        let freer = {
            let world = world.clone();
            thread::spawn(move || (0..2).for_each(|pool| world.free(pool, 0)))
        };
        world.stop_and_go_on();
        freer.join().unwrap();
        assert_eq!(world.pools_waiting(0) + world.pools_waiting(1), 0, "a knock was lost");
        assert_eq!(world.settle(0), 2);
    });
}
