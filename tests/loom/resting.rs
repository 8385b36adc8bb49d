//! The allocator's own threads rest while a graph is taken. The protocol is the product's source.

use std::sync::Arc;

use loom::cell::UnsafeCell;
use loom::thread;

use crate::own_thread::Place;
use crate::{check, check_bounded};

const PROCESS: u32 = 7;
/// The thread that holds the others at rest.
const TAKER: u32 = 99;

/// Places, and what each own thread works on: no atomic, so that loom sees a race.
struct Shared<const PLACES: usize> {
    places: [Place; PLACES],
    work: [UnsafeCell<u32>; 2],
}

// SAFETY: loom checks each access.
unsafe impl<const PLACES: usize> Sync for Shared<PLACES> {}

impl<const PLACES: usize> Shared<PLACES> {
    fn new() -> Arc<Self> {
        Arc::new(Self { places: std::array::from_fn(|_| Place::new()), work: [0, 0].map(UnsafeCell::new) })
    }

    /// With places that a thread of this process has had.
    fn used() -> Arc<Self> {
        let shared = Self::new();
        let workers: [_; PLACES] = std::array::from_fn(|_| Place::take(&shared.places, PROCESS, 5, 500));
        drop(workers);
        shared
    }

    fn change(&self, number: u32) {
        // SAFETY: as above.
        self.work[number as usize - 1].with_mut(|count| unsafe { *count += 1 });
    }

    /// An own thread with this number: works, rests, works.
    fn run(&self, number: u32) {
        let mut worker = Place::take(&self.places, PROCESS, number, number as usize * 100);
        self.change(number);
        worker.rest(|| {});
        self.change(number);
    }

    /// Holds the place, and changes what its thread works on.
    fn hold(&self, place: usize) {
        if let Some(resting) = self.places[place].hold(PROCESS, TAKER) {
            assert_eq!(resting.stack, resting.thread as usize * 100, "another thread's stack");
            self.change(resting.thread);
        }
    }
}

#[test]
fn a_thread_whose_place_is_held_does_nothing() {
    check(|| {
        let shared = Shared::<1>::used();
        let thread = {
            let shared = shared.clone();
            thread::spawn(move || shared.run(1))
        };
        shared.hold(0);
        thread.join().unwrap();
    });
}

#[test]
fn a_place_goes_from_thread_to_thread_and_holds_the_one_it_names() {
    check_bounded(3, || {
        let shared = Shared::<1>::used();
        let thread = {
            let shared = shared.clone();
            thread::spawn(move || {
                shared.run(1);
                shared.run(2);
            })
        };
        shared.hold(0);
        thread.join().unwrap();
    });
}

#[test]
fn a_child_takes_the_place_that_a_thread_of_its_parent_had_at_work() {
    check_bounded(3, || {
        let shared = Shared::<1>::new();
        // The parent's thread does not exist in the child: it never leaves the lock.
        std::mem::forget(Place::take(&shared.places, PROCESS - 1, 5, 0));
        let thread = {
            let shared = shared.clone();
            thread::spawn(move || shared.run(1))
        };
        shared.hold(0);
        thread.join().unwrap();
    });
}

#[test]
fn two_threads_take_two_places() {
    check_bounded(2, || {
        let shared = Shared::<2>::used();
        let threads = [1, 2].map(|number| {
            let shared = shared.clone();
            thread::spawn(move || shared.run(number))
        });
        shared.hold(0);
        shared.hold(1);
        for thread in threads {
            thread.join().unwrap();
        }
    });
}
