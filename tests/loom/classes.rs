//! The map from an address to its block's class. Every access is Relaxed, so the code around the map must order them.
//!
//! Only the locks are the product's here. `heap/class_map.rs` is repeated in simplified form, with numbers of pools for
//! addresses, and so is the code around it: `open` and `return_empty_pools` of `pool_set/pools.rs`, and
//! `Heap::give_pools`.

use std::sync::Arc;

use loom::sync::atomic::AtomicUsize;
use loom::thread;

use crate::check;
use crate::lock::Lock;
use crate::sync::Ordering;

const ABOVE: usize = 2;

/// A window of four pools; the last is never entered.
struct ClassMap {
    classes: [AtomicUsize; 4],
    last: AtomicUsize,
}

impl ClassMap {
    fn new() -> Self {
        Self { classes: [0; 4].map(AtomicUsize::new), last: AtomicUsize::new(0) }
    }

    fn index_of(&self, pool: usize) -> usize {
        self.last.load(Ordering::Relaxed).wrapping_sub(pool)
    }

    fn place_of(&self, pool: usize) -> Option<&AtomicUsize> {
        let index = self.index_of(pool);
        self.classes.get(index).filter(|_| index != 0)
    }

    /// The class; 0 for none.
    fn class_of(&self, pool: usize) -> usize {
        self.classes.get(self.index_of(pool)).map_or(0, |place| place.load(Ordering::Relaxed))
    }

    fn enter(&self, pool: usize, class: usize) {
        if self.last.load(Ordering::Relaxed) == 0 {
            let last = pool + ABOVE;
            let _ = self.last.compare_exchange(0, last, Ordering::Relaxed, Ordering::Relaxed);
        }
        if let Some(place) = self.place_of(pool) {
            place.store(class, Ordering::Relaxed);
        }
    }

    fn leave(&self, pool: usize) {
        if let Some(place) = self.place_of(pool) {
            place.store(0, Ordering::Relaxed);
        }
    }
}

/// Two neighbouring pools: both are in the window, whichever of them it is laid around.
const POOLS: [usize; 2] = [20, 21];

struct Program {
    map: ClassMap,
    /// For each pool, the class of the block that its opener passes on, by whatever means of the program; 0 if it has
    /// not yet.
    passed: [AtomicUsize; 2],
}

impl Program {
    /// Opens a pool and hands out a block.
    fn open(&self, index: usize, class: usize) {
        self.map.enter(POOLS[index], class);
        self.passed[index].store(class, Ordering::Release);
    }

    /// Frees the block, if it was passed on.
    fn free(&self, index: usize) {
        let class = self.passed[index].load(Ordering::Acquire);
        if class != 0 {
            assert_eq!(self.map.class_of(POOLS[index]), class, "a block of a pool that the map does not know");
        }
    }
}

#[test]
fn the_receiver_of_a_block_finds_its_class_whichever_thread_laid_the_window() {
    check(|| {
        let program = Arc::new(Program { map: ClassMap::new(), passed: [AtomicUsize::new(0), AtomicUsize::new(0)] });
        let openers = [0, 1].map(|index| {
            let program = program.clone();
            thread::spawn(move || program.open(index, index + 1))
        });
        program.free(0);
        program.free(1);
        for opener in openers {
            opener.join().unwrap();
        }
        program.free(0);
        program.free(1);
    });
}

#[test]
fn an_address_of_no_pool_has_no_class_while_the_window_is_laid() {
    check(|| {
        let map = Arc::new(ClassMap::new());
        let opener = {
            let map = map.clone();
            thread::spawn(move || map.enter(POOLS[0], 1))
        };
        // Null; a neighbour; an address far above, and one far below.
        for address in [0, POOLS[1], 1 << 40, 1] {
            assert_eq!(map.class_of(address), 0, "{address} has a class");
        }
        opener.join().unwrap();
    });
}

#[test]
fn the_next_class_of_a_pool_is_found_by_the_receiver_of_a_block_of_it() {
    check(|| {
        let map = Arc::new(ClassMap::new());
        map.enter(POOLS[0], 1);
        // The door of the pool's set; it guards whether the pool's only block is home.
        let door = Arc::new(Lock::new(false));
        let passed = Arc::new(AtomicUsize::new(0));
        let owner = {
            let (map, door, passed) = (map.clone(), door.clone(), passed.clone());
            thread::spawn(move || {
                if door.lock().with(|home| *home) {
                    map.enter(POOLS[0], 2);
                    passed.store(2, Ordering::Release);
                }
            })
        };
        let user = {
            let (map, passed) = (map.clone(), passed.clone());
            thread::spawn(move || {
                if passed.load(Ordering::Acquire) == 2 {
                    assert_eq!(map.class_of(POOLS[0]), 2, "the class of a block that is gone");
                }
            })
        };
        // The first block is freed, and is home when the door is left.
        assert_eq!(map.class_of(POOLS[0]), 1, "the class of a block that is not there yet");
        door.lock().with(|home| *home = true);
        owner.join().unwrap();
        user.join().unwrap();
    });
}

#[test]
fn what_others_map_where_an_arena_was_is_no_block() {
    check(|| {
        let map = Arc::new(ClassMap::new());
        map.enter(POOLS[0], 1);
        // The heap's lock guards whether the pool is back in its arena; the kernel's lock guards whether the addresses
        // are free.
        let heap = Arc::new(Lock::new(false));
        let kernel = Arc::new(Lock::new(false));
        let owner = {
            let (map, heap) = (map.clone(), heap.clone());
            thread::spawn(move || {
                heap.lock().with(|back| {
                    map.leave(POOLS[0]);
                    *back = true;
                });
            })
        };
        let other = {
            let (map, kernel) = (map.clone(), kernel.clone());
            thread::spawn(move || {
                if kernel.lock().with(|free| core::mem::take(free)) {
                    assert_eq!(map.class_of(POOLS[0]), 0, "another's address has a class");
                }
            })
        };
        // The next holder of the lock unmaps the arena.
        heap.lock().with(|back| {
            if *back {
                kernel.lock().with(|free| *free = true);
            }
        });
        owner.join().unwrap();
        other.join().unwrap();
    });
}
