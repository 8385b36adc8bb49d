//! Bare sets: sets that leave the register and come back, against walks, knocks and stops.
//!
//! The roll and the locks are the product's. Repeated in simplified form: `heap/register.rs` (`register`, `unregister`,
//! `park`, `lay_bare`, `unpark`), `heap/stop.rs`, `pool_set/inside.rs` (`visit`, `leave`, `park`), `pool_set/knock.rs`
//! (`knock`). A set in these models owns no pool and has an empty cache: it is bare as soon as it is parked.

use std::ptr::NonNull;
use std::sync::Arc;

use loom::thread;

use crate::lock::{Entry, Guard, Lock};
use crate::roll::{Place, Roll};
use crate::sync::{AtomicPtr, AtomicU32, Ordering, UnsafeCell};
use crate::{check, check_bounded};

/// What a door guards.
struct Inside {
    is_parked: bool,
    /// How often the set's own threads and others were inside.
    uses: u32,
}

struct Set {
    number: u32,
    door: Lock<Inside>,
    is_stopped: AtomicU32,
    /// As in the product. Guarded by the heap's lock.
    place: UnsafeCell<usize>,
    is_listed: UnsafeCell<bool>,
}

/// What the heap's lock guards.
struct State {
    parked: Vec<usize>,
    /// The roll's rows, which are leaked in the product.
    rows: Vec<Vec<Place<Set>>>,
}

struct Heap {
    sets: Vec<Set>,
    roll: Roll<Set>,
    stop: Lock<()>,
    state: Lock<State>,
}

// SAFETY: loom checks each access to the cells; the rest is atomic or locked.
unsafe impl Sync for Heap {}
// SAFETY: it has no data that belongs to one thread.
unsafe impl Send for Heap {}

impl Heap {
    /// A heap with some sets in the register, each of a running thread, and room for some that are not made yet.
    fn new(sets: u32, to_come: u32) -> Arc<Self> {
        let set = |number| Set {
            number,
            door: Lock::new(Inside { is_parked: false, uses: 0 }),
            is_stopped: AtomicU32::new(0),
            place: UnsafeCell::new(0),
            is_listed: UnsafeCell::new(false),
        };
        let heap = Arc::new(Self {
            sets: (0..sets + to_come).map(set).collect(),
            roll: Roll::new(),
            stop: Lock::new(()),
            state: Lock::new(State { parked: Vec::new(), rows: Vec::new() }),
        });
        (0..sets as usize).for_each(|set| heap.make(set));
        heap
    }

    /// `make_set`.
    fn make(&self, set: usize) {
        self.state.lock().with(|state| self.register(set, state));
    }

    /// `make_room`, `register`.
    fn register(&self, set: usize, state: &mut State) {
        if let Some(places) = self.roll.missing_row() {
            let row: Vec<_> = (0..places).map(|_| AtomicPtr::new(std::ptr::null_mut())).collect();
            // SAFETY: the row lives as long as the heap, whose vector of rows never drops one.
            unsafe { self.roll.add_row(NonNull::from(&row[..]).cast()) };
            state.rows.push(row);
        }
        let place = self.roll.enter(NonNull::from(&self.sets[set]));
        // SAFETY: loom fails the model if this is not under the heap's lock.
        self.sets[set].place.with_mut(|own| unsafe { *own = place + 1 });
    }

    /// `lay_bare`.
    fn lay_bare<'set>(&self, set: usize, guard: Guard<'set, Inside>) -> Result<(), Guard<'set, Inside>> {
        let this = &self.sets[set];
        self.state.lock().with(|_| {
            // SAFETY (all): as in `register`.
            if !this.is_listed.with(|listed| unsafe { *listed }) {
                return Err(guard);
            }
            let place = this.place.with_mut(|own| unsafe { std::mem::take(&mut *own) }) - 1;
            if let Some(moved) = self.roll.strike(place) {
                // SAFETY: a set of this heap.
                unsafe { moved.as_ref() }.place.with_mut(|own| unsafe { *own = place + 1 });
            }
            guard.shut();
            Ok(())
        })
    }

    /// `PoolSet::leave`.
    fn leave(&self, set: usize, mut guard: Guard<'_, Inside>) -> bool {
        if !guard.with(|inside| inside.is_parked) {
            return guard.leave();
        }
        match self.lay_bare(set, guard) {
            Ok(()) => false,
            Err(guard) => guard.leave(),
        }
    }

    /// `PoolSet::visit`: whether the set was open.
    fn visit(&self, set: usize) -> bool {
        let Some(mut guard) = self.sets[set].door.lock_if_open() else { return false };
        guard.with(|inside| inside.uses += 1);
        if self.leave(set, guard) {
            self.knock(set);
        }
        true
    }

    /// `PoolSet::knock`.
    fn knock(&self, set: usize) {
        while let Some(mut guard) = self.sets[set].door.lock_or_knock() {
            guard.with(|inside| inside.uses += 1);
            if !self.leave(set, guard) {
                return;
            }
        }
    }

    /// `PoolSet::park`.
    fn park(&self, set: usize) {
        let this = &self.sets[set];
        let mut guard = this.door.lock();
        guard.with(|inside| inside.is_parked = true);
        self.state.lock().with(|state| {
            // SAFETY: as in `register`.
            this.is_listed.with_mut(|listed| unsafe { *listed = true });
            state.parked.push(set);
        });
        if self.leave(set, guard) {
            self.knock(set);
        }
    }

    /// `unpark` and `ThreadCache::acquire`, and then a use of the set.
    fn adopt(&self) -> Option<usize> {
        let set = self.state.lock().with(|state| {
            let set = state.parked.pop()?;
            let this = &self.sets[set];
            // SAFETY (both): as in `register`.
            this.is_listed.with_mut(|listed| unsafe { *listed = false });
            if this.place.with(|own| unsafe { *own }) == 0 {
                self.register(set, state);
                // SAFETY: the door is shut as long as the set is bare.
                unsafe { this.door.open() };
            }
            Some(set)
        })?;
        let mut guard = self.sets[set].door.lock();
        guard.with(|inside| {
            assert!(std::mem::take(&mut inside.is_parked), "a set that nobody parked was adopted");
            inside.uses += 1;
        });
        if guard.leave() {
            self.knock(set);
        }
        Some(set)
    }

    /// The sets that a walk finds.
    fn walk(&self) -> Vec<&Set> {
        // SAFETY: sets of this heap.
        self.roll.walk().map(|set| unsafe { &*set.as_ptr() }).collect()
    }

    /// `stop_slow_paths`, a look behind every door (bare sets' doors, too), and `restart_slow_paths`. Returns the
    /// number of doors that it took.
    fn stop(&self) -> usize {
        self.stop.acquire();
        loop {
            for set in self.walk() {
                if set.is_stopped.load(Ordering::Relaxed) == 0 && set.door.acquire_if_open() != Entry::Refused {
                    set.is_stopped.store(1, Ordering::Relaxed);
                }
            }
            self.state.acquire();
            if self.walk().iter().all(|set| set.is_stopped.load(Ordering::Relaxed) != 0) {
                break;
            }
            // SAFETY: acquired just above.
            unsafe { self.state.release() };
        }
        for set in &self.sets {
            // SAFETY: loom fails the model if another thread is inside.
            unsafe { set.door.with_held(|inside| inside.uses += 1) };
        }
        let mut knocked = Vec::new();
        let stopped = self.walk().into_iter().filter(|set| set.is_stopped.load(Ordering::Relaxed) != 0);
        let mut doors = 0;
        for set in stopped {
            set.is_stopped.store(0, Ordering::Relaxed);
            doors += 1;
            // SAFETY: acquired above.
            if unsafe { set.door.leave() } {
                knocked.push(set.number as usize);
            }
        }
        // SAFETY: acquired above.
        unsafe {
            self.state.release();
            self.stop.release();
        }
        knocked.into_iter().for_each(|set| self.knock(set));
        doors
    }
}

/// A forked child, or a thread that counts, may look at the whole heap while another thread starts.
#[test]
fn while_all_doors_are_stopped_no_thread_is_inside_not_even_one_that_adopts_a_bare_set() {
    check(|| {
        let heap = Heap::new(2, 0);
        heap.park(1);
        let adopting = {
            let heap = heap.clone();
            thread::spawn(move || assert_eq!(heap.adopt(), Some(1)))
        };
        heap.stop();
        adopting.join().unwrap();
        assert_eq!(heap.stop(), 2);
    });
}

/// The same, with a thread that makes a set.
#[test]
fn stopping_all_slow_paths_stops_those_of_a_set_registered_meanwhile() {
    check(|| {
        let heap = Heap::new(1, 1);
        let starting = {
            let heap = heap.clone();
            thread::spawn(move || {
                heap.make(1);
                heap.sets[1].door.lock().with(|inside| inside.uses += 1);
            })
        };
        heap.stop();
        starting.join().unwrap();
        assert_eq!(heap.stop(), 2);
    });
}

/// When its thread parks the set, a walker or the stop may have its door; the last one to leave makes it bare.
#[test]
fn a_set_that_is_parked_while_it_is_walked_and_all_are_stopped_is_bare_at_the_end() {
    check_bounded(3, || {
        let heap = Heap::new(2, 0);
        let others = [(); 2].map(|()| heap.clone());
        let [ending, walking] = others;
        let ending = thread::spawn(move || ending.park(1));
        let walking = thread::spawn(move || {
            walking.visit(1);
        });
        heap.stop();
        ending.join().unwrap();
        walking.join().unwrap();
        assert!(!heap.visit(1), "a bare set's door is open");
        assert_eq!(heap.stop(), 1, "doors taken");
    });
}

/// The pushing thread knows the set by an old tag.
#[test]
fn a_knock_that_comes_late_at_a_bare_set_changes_nothing_and_keeps_nobody_out() {
    check_bounded(3, || {
        let heap = Heap::new(2, 0);
        let others = [(); 2].map(|()| heap.clone());
        let [knocking, changing] = others;
        let knocking = thread::spawn(move || knocking.knock(1));
        let changing = thread::spawn(move || {
            changing.park(1);
            assert_eq!(changing.adopt(), Some(1));
        });
        heap.stop();
        knocking.join().unwrap();
        changing.join().unwrap();
        assert_eq!(heap.stop(), 2);
    });
}

#[test]
fn a_thread_that_waits_for_a_door_gives_up_if_it_is_shut_meanwhile() {
    check_bounded(3, || {
        let heap = Heap::new(1, 0);
        let walking = [(); 2].map(|()| {
            let heap = heap.clone();
            thread::spawn(move || {
                heap.visit(0);
            })
        });
        heap.park(0);
        // No thread sleeps for ever: loom would report that.
        walking.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(heap.adopt(), Some(0));
    });
}

/// One set leaves, the last set takes its place, and another set comes.
#[test]
fn a_walk_finds_what_stays_on_the_roll_whoever_comes_and_goes() {
    check(|| {
        let heap = Heap::new(3, 0);
        let changing = {
            let heap = heap.clone();
            thread::spawn(move || {
                heap.park(0);
                assert_eq!(heap.adopt(), Some(0));
            })
        };
        let found: Vec<u32> = heap.walk().iter().map(|set| set.number).collect();
        assert!(found.contains(&1) && found.contains(&2), "{found:?}");
        changing.join().unwrap();
        let mut found: Vec<u32> = heap.walk().iter().map(|set| set.number).collect();
        found.sort_unstable();
        assert_eq!(found, [0, 1, 2]);
    });
}

/// A walker that finds a thing sees all that was written before the thing was entered, in a row that is complete.
#[test]
fn a_walk_of_the_roll_finds_whole_things() {
    struct Thing(UnsafeCell<u32>);
    // SAFETY: loom checks each access.
    unsafe impl Sync for Thing {}
    // SAFETY: as above.
    unsafe impl Send for Thing {}
    check(|| {
        let things = Arc::new([Thing(UnsafeCell::new(0)), Thing(UnsafeCell::new(0))]);
        let row = |places| -> Vec<Place<Thing>> { (0..places).map(|_| AtomicPtr::new(std::ptr::null_mut())).collect() };
        let roll = Arc::new((Roll::<Thing>::new(), Lock::new(Vec::new())));
        let entering = [0, 1].map(|number| {
            let (things, roll) = (things.clone(), roll.clone());
            thread::spawn(move || {
                roll.1.lock().with(|rows| {
                    // SAFETY: loom fails the model if another thread reads it earlier.
                    things[number].0.with_mut(|thing| unsafe { *thing = 1 });
                    if let Some(places) = roll.0.missing_row() {
                        let row = row(places);
                        // SAFETY: never dropped before the roll.
                        unsafe { roll.0.add_row(NonNull::from(&row[..]).cast()) };
                        rows.push(row);
                    }
                    roll.0.enter(NonNull::from(&things[number]));
                });
            })
        });
        // SAFETY: things of this model.
        let look = || roll.0.walk().map(|thing| unsafe { thing.as_ref().0.with(|thing| *thing) }).collect::<Vec<_>>();
        assert!(look().iter().all(|&thing| thing == 1));
        entering.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(look(), [1, 1]);
    });
}
