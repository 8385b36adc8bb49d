//! The states of blocks (`src/protocols/block_state.rs`, compiled here unchanged) on a block's ways from thread to
//! thread.
//!
//! The code around it is simplified. A cache is what a thread remembers. The way home is through the product's remote
//! word and count, and through a door.

use loom::sync::Arc;
use loom::thread;

use crate::block_state::{BlockState, FREED, LIVE, NEVER};
use crate::check;
use crate::lock::Lock;
use crate::remote::{Arrival, RemoteHalf, RemoteWord};
use crate::sync::{AtomicU32, Ordering, UnsafeCell};

const CLASS: u8 = 7;

/// One block of a set's pool.
struct World {
    state: BlockState,
    /// The block's contents: free blocks are 0.
    contents: UnsafeCell<u32>,
    word: RemoteWord,
    remote: RemoteHalf,
    /// The owner's door, and whether the block is free in its pool.
    door: Lock<bool>,
}

// SAFETY: loom checks each access to the cell; the rest is atomic or locked.
unsafe impl Sync for World {}
// SAFETY: it has no data that belongs to one thread.
unsafe impl Send for World {}

impl World {
    fn new() -> Self {
        Self {
            state: BlockState::new(),
            contents: UnsafeCell::new(0),
            word: RemoteWord::new(),
            remote: RemoteHalf::new(),
            door: Lock::new(false),
        }
    }

    /// `hardened::hand_out`, and the program's first use; returns the old state.
    fn hand_out(&self) -> u8 {
        let before = self.state.hand_out(CLASS);
        if before & LIVE == 0 {
            self.contents.with_mut(|contents| {
                // SAFETY: loom fails the model if another thread accesses it.
                unsafe {
                    assert_eq!(*contents, 0, "a free block is not zero");
                    *contents = 1;
                }
            });
        }
        before
    }

    /// `hardened::check_free`; returns whether the free was good.
    fn free(&self) -> bool {
        let good = self.state.free(CLASS).is_ok();
        if good {
            // SAFETY: loom fails the model if another thread accesses it.
            self.contents.with_mut(|contents| unsafe { *contents = 0 });
        }
        good
    }

    /// The block goes to its pool, which belongs to another thread.
    fn go_home(&self) {
        assert!(self.word.free(1), "it comes home twice");
        assert_eq!(self.remote.arrive(1), Arrival::First);
    }

    /// The owner collects, and takes the block if it came home.
    fn take(&self) -> bool {
        self.door.lock().with(|free| {
            if self.remote.outstanding() > 0 && self.remote.collect_count() > 0 {
                *free |= self.word.collect() == 1;
            }
            core::mem::take(free)
        })
    }
}

#[test]
fn a_block_that_goes_from_thread_to_thread_and_home_is_never_refused() {
    check(|| {
        let world = Arc::new(World::new());
        assert_eq!(world.hand_out(), NEVER);
        let other = world.clone();
        // The program hands the block over by the spawn.
        let freer = thread::spawn(move || {
            assert!(other.free(), "a good free was refused");
            other.go_home();
        });
        if world.take() {
            assert_eq!(world.hand_out(), FREED, "the free was not seen when the block was handed out");
            assert!(world.free(), "the last free was taken for this one");
        }
        freer.join().unwrap();
    });
}

#[test]
fn a_block_freed_again_after_the_first_free_is_refused_wherever_it_is() {
    check(|| {
        let world = Arc::new(World::new());
        world.hand_out();
        assert!(world.free());
        let (one, other) = (world.clone(), world.clone());
        let home = thread::spawn(move || one.go_home());
        let again = thread::spawn(move || other.state.free(CLASS));
        assert_eq!(again.join().unwrap(), Err(FREED));
        home.join().unwrap();
    });
}

/// Both frees may be accepted. The block is then in two caches, and the second thread that hands it out sees that.
#[test]
fn a_block_freed_twice_at_the_same_instant_is_refused_at_the_call_or_when_it_is_handed_out_again() {
    check(|| {
        let world = Arc::new(World::new());
        world.hand_out();
        let other = world.clone();
        let second = thread::spawn(move || other.state.free(CLASS).is_ok());
        let first = world.state.free(CLASS).is_ok();
        let second = second.join().unwrap();
        assert!(first || second, "both were refused");
        if first && second {
            assert_eq!(world.state.hand_out(CLASS), FREED);
            assert_eq!(world.state.hand_out(CLASS), LIVE | CLASS, "handed out twice, unnoticed");
        }
    });
}

/// Two slots of a shelf (`src/cache/hardened/quarantine.rs`) and of a magazine (`src/cache/mod.rs`), whose thread a
/// fork stops at any point: the child never finds a block twice.
///
/// A child sees memory as it was at one instant, but a walk in a model takes time. So each model first reads what is
/// written last.
struct Shelf {
    shelf: [AtomicU32; 2],
    magazine: [AtomicU32; 2],
    top: AtomicU32,
}

impl Shelf {
    /// Two blocks wait.
    fn full() -> Arc<Self> {
        let slots = |blocks: [u32; 2]| blocks.map(AtomicU32::new);
        Arc::new(Self { shelf: slots([1, 2]), magazine: slots([0, 0]), top: AtomicU32::new(0) })
    }

    /// `ThreadCache::put_all`.
    fn put_all(&self) {
        for (slot, place) in self.shelf.iter().zip(&self.magazine) {
            place.store(slot.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        self.shelf.iter().for_each(|slot| slot.store(0, Ordering::Relaxed));
        self.top.store(2, Ordering::Release); // put_all
    }

    /// `ThreadCache::alloc`, and `Quarantine::push` of the same block.
    fn alloc_and_free(&self) {
        self.top.store(1, Ordering::Release); // alloc
        let block = self.magazine[1].load(Ordering::Relaxed);
        self.shelf[0].store(block, Ordering::Release); // push
    }
}

#[test]
fn a_shelf_that_is_emptied_as_a_process_forks_has_no_block_that_the_magazine_has() {
    check(|| {
        let shelf = Shelf::full();
        let theirs = shelf.clone();
        let owner = thread::spawn(move || theirs.put_all());
        let top = shelf.top.load(Ordering::Acquire); // blocks
        let held = shelf.shelf.each_ref().map(|slot| slot.load(Ordering::Relaxed));
        for place in &shelf.magazine[..top as usize] {
            let block = place.load(Ordering::Relaxed);
            assert!(block != 0 && !held.contains(&block), "{block} is in the magazine, and {held:?} wait");
        }
        owner.join().unwrap();
    });
}

#[test]
fn a_block_that_is_freed_as_a_process_forks_is_not_in_the_magazine_it_came_from() {
    check(|| {
        let shelf = Shelf::full();
        shelf.put_all();
        let theirs = shelf.clone();
        let owner = thread::spawn(move || theirs.alloc_and_free());
        let waits = shelf.shelf[0].load(Ordering::Acquire); // held
        for place in &shelf.magazine[..shelf.top.load(Ordering::Relaxed) as usize] {
            assert_ne!(place.load(Ordering::Relaxed), waits, "found twice");
        }
        owner.join().unwrap();
    });
}
