//! Publication for look-ups without a lock: the address map, and a magazine's `top`. Also things that are made once, by
//! the thread that first needs them, and the static from which reports are printed.
//!
//! Only the locks are the product's here. The rest repeats in simplified form, with numbers for addresses:
//! `heap/arena_map.rs` (`arena_of`, `add_leaf`, `set`), `cache/mod.rs` (`alloc`, `free`, `blocks`),
//! `os/linux/threads.rs` (`on_thread_end`), `debug/mod.rs` (`register`), `inspect/report.rs` (`print`). Each line of
//! the product with an ordering that matters is one line here, so that `tests/loom_mutations.sh` can weaken it.

use std::sync::Arc;

use loom::sync::atomic::AtomicUsize;
use loom::thread;

use crate::check;
use crate::lock::Lock;
use crate::sync::{Ordering, UnsafeCell, load_own};

const NONE: usize = 0;

/// A root with one leaf, which has one arena.
struct Map {
    root: AtomicUsize,
    /// Stands for the leaf's memory, which every thread must see as zero.
    zeros: UnsafeCell<bool>,
    leaf: AtomicUsize,
    /// Stands for the arena's metadata.
    metadata: UnsafeCell<usize>,
    heap: Lock<()>,
}

const LEAF: usize = 1;
const ARENA: usize = 2;

impl Map {
    fn new() -> Self {
        Self {
            root: AtomicUsize::new(NONE),
            zeros: UnsafeCell::new(false),
            leaf: AtomicUsize::new(NONE),
            metadata: UnsafeCell::new(NONE),
            heap: Lock::new(()),
        }
    }

    /// `AddressMap::arena_of`, and then an access to the arena.
    fn look_up(&self) -> bool {
        let leaf = self.root.load(Ordering::Acquire);
        if leaf == NONE {
            return false;
        }
        self.zeros.with(|zeros| assert!(unsafe { *zeros }, "a leaf is read before its zeros"));
        let arena = self.leaf.load(Ordering::Acquire);
        if arena == NONE {
            return false;
        }
        self.metadata.with(|metadata| assert_eq!(unsafe { *metadata }, ARENA));
        true
    }

    /// `HeapState::map_arena`: the leaf, the metadata, the entry.
    fn map_arena(&self) {
        self.heap.lock().with(|()| {
            self.zeros.with_mut(|zeros| unsafe { *zeros = true });
            self.root.store(LEAF, Ordering::Release);
            self.metadata.with_mut(|metadata| unsafe { *metadata = ARENA });
            self.leaf.store(ARENA, Ordering::Release);
        });
    }
}

#[test]
fn an_address_that_no_block_orders_is_looked_up_in_whole_leaves_and_arenas() {
    check(|| {
        let map = Arc::new(Map::new());
        let mapping = {
            let map = map.clone();
            thread::spawn(move || map.map_arena())
        };
        map.look_up();
        mapping.join().unwrap();
        assert!(map.look_up());
    });
}

/// `top` counts the slots in use.
struct Magazine {
    top: AtomicUsize,
    slots: [AtomicUsize; 2],
}

impl Magazine {
    /// `ThreadCache::put`.
    fn free(&self, block: usize) {
        let top = load_own(&self.top);
        self.slots[top].store(block, Ordering::Relaxed);
        self.top.store(top + 1, Ordering::Release); // free
    }

    /// `Magazine::alloc`.
    fn alloc(&self) -> usize {
        let top = load_own(&self.top) - 1;
        let block = self.slots[top].load(Ordering::Relaxed);
        self.top.store(top, Ordering::Release); // alloc
        block
    }

    /// `ThreadCache::blocks`.
    fn look(&self) {
        let top = self.top.load(Ordering::Acquire); // blocks
        for slot in &self.slots[..top] {
            assert_ne!(slot.load(Ordering::Relaxed), NONE, "a slot below the top is not written");
        }
    }
}

fn looked_at(live: impl Fn(&Magazine) + Copy + Send + Sync + 'static) {
    check(move || {
        let magazine =
            Arc::new(Magazine { top: AtomicUsize::new(0), slots: [AtomicUsize::new(NONE), AtomicUsize::new(NONE)] });
        let owner = {
            let magazine = magazine.clone();
            thread::spawn(move || live(&magazine))
        };
        magazine.look();
        owner.join().unwrap();
        magazine.look();
    });
}

#[test]
fn a_walk_of_a_magazine_finds_a_block_in_each_slot_that_a_free_filled() {
    looked_at(|magazine| {
        magazine.free(1);
        magazine.free(2);
    });
}

#[test]
fn a_walk_of_a_magazine_finds_a_block_in_each_slot_that_an_alloc_left() {
    looked_at(|magazine| {
        magazine.free(1);
        magazine.free(2);
        assert_eq!(magazine.alloc(), 2);
    });
}

/// The pthread key, and the register of a `DebugAlloc`: the thread that first needs one makes it.
struct Once {
    made: AtomicUsize,
    things: [UnsafeCell<usize>; 3],
}

impl Once {
    fn get(&self, thread: usize) -> usize {
        let known = self.made.load(Ordering::Acquire); // known
        let made = if known == NONE {
            self.things[thread - 1].with_mut(|thing| unsafe { *thing = thread });
            let success = Ordering::Release; // made
            let failure = Ordering::Acquire; // lost
            self.made.compare_exchange(NONE, thread, success, failure).map_or_else(|first| first, |_| thread)
        } else {
            known
        };
        self.things[made - 1].with(|thing| assert_eq!(unsafe { *thing }, made));
        made
    }
}

#[test]
fn what_is_made_once_is_whole_for_all_and_the_same() {
    check(|| {
        let once = Arc::new(Once {
            made: AtomicUsize::new(NONE),
            things: [UnsafeCell::new(NONE), UnsafeCell::new(NONE), UnsafeCell::new(NONE)],
        });
        let others = [1, 2].map(|thread| {
            let once = once.clone();
            thread::spawn(move || once.get(thread))
        });
        let mine = once.get(3);
        for thread in others {
            assert_eq!(thread.join().unwrap(), mine);
        }
    });
}

const REPORT: usize = 1;
const PRINTS: usize = 1;

struct Reports {
    /// `WANTED`.
    wanted: AtomicUsize,
    printing: AtomicUsize,
    /// `COUNTS`.
    counts: UnsafeCell<usize>,
    /// The number that reports count.
    heap: Lock<usize>,
}

impl Reports {
    fn new() -> Self {
        Self {
            wanted: AtomicUsize::new(0),
            printing: AtomicUsize::new(NONE),
            counts: UnsafeCell::new(0),
            heap: Lock::new(0),
        }
    }

    fn print(&self) -> bool {
        let success = Ordering::Acquire; // taken
        if self.printing.compare_exchange(NONE, PRINTS, success, Ordering::Relaxed).is_err() {
            return false;
        }
        let counted = self.heap.lock().with(|heap| *heap);
        self.counts.with_mut(|counts| unsafe { *counts = counted });
        self.printing.store(NONE, Ordering::Release); // given back
        true
    }

    fn print_if_due(&self) {
        if self.wanted.fetch_and(!REPORT, Ordering::Relaxed) & REPORT != 0 && !self.print() {
            self.wanted.fetch_or(REPORT, Ordering::Relaxed);
        }
    }

    /// Something changes and must be reported.
    fn change(&self) {
        self.heap.lock().with(|heap| *heap += 1);
        self.wanted.fetch_or(REPORT, Ordering::Relaxed);
        self.print_if_due();
    }
}

#[test]
fn one_thread_prints_at_a_time_and_no_report_that_is_due_is_lost() {
    check(|| {
        let reports = Arc::new(Reports::new());
        let other = {
            let reports = reports.clone();
            thread::spawn(move || reports.change())
        };
        reports.change();
        other.join().unwrap();
        reports.print_if_due();
        reports.counts.with(|counts| assert_eq!(unsafe { *counts }, 2, "a change was never reported"));
    });
}
