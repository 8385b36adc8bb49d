//! Poisoned magazines, and caches that enter the register meanwhile.
//!
//! The locks and the roll are the product's here. The magazine repeats `cache/mod.rs` (`alloc`, `free`, `set_bounds`,
//! `set_array`, `set_poison`) and `cache/slow.rs` (`grow`, `pop`, `push`) with slot numbers for addresses; the register
//! repeats `heap/register.rs` (`register`, `sets`, `set_poisons`), `ThreadCache::acquire` and `poison_all`. So these
//! models check the protocol as it is repeated here, not the lines of those files.

use core::ptr::{self, NonNull};

use loom::sync::atomic::AtomicUsize;
use loom::thread;
use std::sync::Arc;

use crate::lock::Lock;
use crate::roll::{Place, Roll};
use crate::sync::{AtomicPtr, AtomicU32, Ordering};
use crate::{check, check_bounded};

/// Where the second array starts.
const SECOND_ARRAY: usize = 8;

/// The words of a magazine that its fast path uses. Arrays are ranges of numbers.
struct Magazine {
    top: AtomicUsize,
    floor: AtomicUsize,
    ceiling: AtomicUsize,
    base: AtomicUsize,
    door: Lock<Shape>,
}

/// What the door guards.
struct Shape {
    capacity: usize,
    poisoned: bool,
    poisoned_calls: usize,
}

impl Magazine {
    /// An empty magazine of one slot.
    fn new() -> Self {
        let shape = Shape { capacity: 1, poisoned: false, poisoned_calls: 0 };
        Self {
            top: AtomicUsize::new(0),
            floor: AtomicUsize::new(0),
            ceiling: AtomicUsize::new(1),
            base: AtomicUsize::new(0),
            door: Lock::new(shape),
        }
    }

    /// `Magazine::alloc`.
    fn alloc(&self) {
        let top = self.top.load(Ordering::Relaxed);
        if top <= self.floor.load(Ordering::Relaxed) {
            return self.door.lock().with(|shape| {
                shape.poisoned_calls += usize::from(shape.poisoned);
                self.top.store(self.top.load(Ordering::Relaxed) - 1, Ordering::Release);
                self.check_bounds(shape);
            });
        }
        self.top.store(top - 1, Ordering::Release);
    }

    /// `ThreadCache::put`.
    fn free(&self) {
        let top = self.top.load(Ordering::Relaxed);
        if top >= self.ceiling.load(Ordering::Relaxed) {
            return self.door.lock().with(|shape| {
                shape.poisoned_calls += usize::from(shape.poisoned);
                if self.top.load(Ordering::Relaxed) >= self.base.load(Ordering::Relaxed) + shape.capacity {
                    self.grow(shape);
                }
                self.top.store(self.top.load(Ordering::Relaxed) + 1, Ordering::Release);
                self.check_bounds(shape);
            });
        }
        self.top.store(top + 1, Ordering::Release);
    }

    fn grow(&self, shape: &mut Shape) {
        let used = self.top.load(Ordering::Relaxed) - self.base.load(Ordering::Relaxed);
        shape.capacity = 2;
        self.base.store(SECOND_ARRAY, Ordering::Relaxed);
        self.top.store(SECOND_ARRAY, Ordering::Relaxed);
        self.set_bounds(shape);
        self.top.store(SECOND_ARRAY + used, Ordering::Release);
    }

    fn set_poison(&self, poisoned: bool) {
        self.door.lock().with(|shape| {
            shape.poisoned = poisoned;
            self.set_bounds(shape);
        });
    }

    fn set_bounds(&self, shape: &Shape) {
        let base = self.base.load(Ordering::Relaxed);
        let (floor, ceiling) = if shape.poisoned { (usize::MAX, 0) } else { (base, base + shape.capacity) };
        self.floor.store(floor, Ordering::Relaxed);
        self.ceiling.store(ceiling, Ordering::Relaxed);
    }

    fn check_bounds(&self, shape: &Shape) {
        let (base, top) = (self.base.load(Ordering::Relaxed), self.top.load(Ordering::Relaxed));
        assert!(base <= top && top <= base + shape.capacity, "a magazine's top is out of its array");
    }

    /// Number of blocks in the magazine. The caller holds the door.
    fn used(&self) -> usize {
        self.top.load(Ordering::Relaxed) - self.base.load(Ordering::Relaxed)
    }

    /// At rest: checks that the poison is as it should be, and that the next two calls obey it.
    fn settle(&self, poisoned: bool, used: usize) {
        let calls = self.door.lock().with(|shape| {
            self.check_bounds(shape);
            assert_eq!(self.used(), used);
            assert_eq!(shape.poisoned, poisoned);
            let base = self.base.load(Ordering::Relaxed);
            let bounds = if poisoned { (usize::MAX, 0) } else { (base, base + shape.capacity) };
            let found = (self.floor.load(Ordering::Relaxed), self.ceiling.load(Ordering::Relaxed));
            assert_eq!(found, bounds, "the owner undid the poison, or its end");
            shape.poisoned_calls
        });
        self.alloc();
        self.free();
        let calls = self.door.lock().with(|shape| shape.poisoned_calls) - calls;
        assert_eq!(calls, if poisoned { 2 } else { 0 }, "the poison lets calls pass, or lasts");
    }
}

/// The owner takes the fast path, grows its magazine, and takes the fast path again.
fn live(magazine: &Magazine) {
    magazine.free();
    magazine.free();
    magazine.alloc();
    // Nothing after this call would repair bounds that it broke.
    magazine.free();
}

#[test]
fn a_magazine_poisoned_while_its_owner_runs_and_grows_it_stays_poisoned() {
    check(|| {
        let magazine = Arc::new(Magazine::new());
        let other = magazine.clone();
        let poisoner = thread::spawn(move || other.set_poison(true));
        live(&magazine);
        poisoner.join().unwrap();
        magazine.settle(true, 2);
    });
}

#[test]
fn a_magazine_whose_poison_is_lifted_while_its_owner_runs_and_grows_it_has_its_own_bounds() {
    check_bounded(5, || {
        let magazine = Arc::new(Magazine::new());
        magazine.set_poison(true);
        let other = magazine.clone();
        let lifter = thread::spawn(move || other.set_poison(false));
        live(&magazine);
        lifter.join().unwrap();
        magazine.settle(false, 2);
    });
}

/// A set with its cache.
struct Cache {
    /// Whether the cache is poisoned.
    door: Lock<bool>,
}

/// The register.
struct Heap {
    caches: [Cache; 2],
    sets: Roll<Cache>,
    /// The roll's rows, which are there from the start.
    rows: [[Place<Cache>; 2]; 2],
    poisons: AtomicU32,
    /// The heap's lock.
    state: Lock<()>,
}

// SAFETY: the rest is atomic or locked.
unsafe impl Sync for Heap {}
// SAFETY: it has no data that belongs to one thread.
unsafe impl Send for Heap {}

impl Heap {
    /// Two caches, not in the register yet.
    fn new() -> Self {
        let cache = || Cache { door: Lock::new(false) };
        let row = || [AtomicPtr::new(ptr::null_mut()), AtomicPtr::new(ptr::null_mut())];
        Self {
            caches: [cache(), cache()],
            sets: Roll::new(),
            rows: [row(), row()],
            poisons: AtomicU32::new(0),
            state: Lock::new(()),
        }
    }

    /// `Heap::make_set`, `unpark` of a bare set.
    fn register(&self, number: usize) {
        self.state.lock().with(|()| {
            if let Some(places) = self.sets.missing_row() {
                // SAFETY: the rows have one place and two, and live as long as the heap.
                unsafe { self.sets.add_row(NonNull::from(&self.rows[places - 1][..]).cast()) };
            }
            self.sets.enter(NonNull::from(&self.caches[number]));
        });
    }

    /// `ThreadCache::acquire` of a new cache.
    fn acquire(&self, number: usize) {
        self.register(number);
        self.caches[number].door.lock().with(|poisoned| *poisoned = self.poisons.load(Ordering::Relaxed) != 0);
    }

    /// `ThreadCache::poison_all`.
    fn poison_all(&self, poisons: bool) {
        self.state.lock().with(|()| self.poisons.store(u32::from(poisons), Ordering::Relaxed));
        for cache in self.sets.walk() {
            // SAFETY: a cache of this heap.
            unsafe { cache.as_ref() }.door.lock().with(|poisoned| *poisoned = poisons);
        }
    }
}

#[test]
fn a_cache_registered_while_all_are_being_poisoned_ends_poisoned() {
    check(|| {
        let heap = Arc::new(Heap::new());
        heap.acquire(0);
        let other = heap.clone();
        let newcomer = thread::spawn(move || other.acquire(1));
        heap.poison_all(true);
        newcomer.join().unwrap();
        assert!(heap.caches.iter().all(|cache| cache.door.lock().with(|poisoned| *poisoned)));
    });
}

#[test]
fn a_cache_registered_while_the_poison_is_lifted_ends_without() {
    check(|| {
        let heap = Arc::new(Heap::new());
        heap.acquire(0);
        heap.poison_all(true);
        let other = heap.clone();
        let newcomer = thread::spawn(move || other.acquire(1));
        heap.poison_all(false);
        newcomer.join().unwrap();
        assert!(heap.caches.iter().all(|cache| cache.door.lock().with(|poisoned| !*poisoned)));
    });
}
