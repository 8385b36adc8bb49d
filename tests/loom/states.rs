//! The states of blocks (`src/hardened/state.rs`, compiled here as it is) on a block's ways from thread to thread.
//!
//! What lies around it is in small: a cache is what a thread remembers, the way home is the product's remote word and
//! count, and a door's.

use loom::sync::Arc;
use loom::thread;

use crate::block_state::{BlockState, FREED, LIVE, NEVER};
use crate::check;
use crate::lock::Lock;
use crate::remote::{Arrival, RemoteHalf, RemoteWord};
use crate::sync::{Ordering, UnsafeCell};

const CLASS: u8 = 7;

/// One block of a set's pool.
struct World {
    state: BlockState,
    /// The block's contents: free blocks are 0.
    contents: UnsafeCell<u32>,
    word: RemoteWord,
    remote: RemoteHalf,
    /// The owner's door, and whether the block's free bit is set.
    door: Lock<bool>,
}

// SAFETY: loom checks each access to the cell; the rest is atomic or locked.
unsafe impl Sync for World {}
// SAFETY: nothing in it belongs to a thread.
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

    /// `hardened::hand_out`, and the program's first use; what the state was.
    fn hand_out(&self) -> u8 {
        let before = self.state.hand_out(CLASS);
        if before & LIVE == 0 {
            self.contents.with_mut(|contents| {
                // SAFETY: loom fails the model if somebody else is at it.
                unsafe {
                    assert_eq!(*contents, 0, "a free block is not zero");
                    *contents = 1;
                }
            });
        }
        before
    }

    /// `hardened::take_back`; whether the free was good.
    fn free(&self) -> bool {
        let good = self.state.free(CLASS).is_ok();
        if good {
            // SAFETY: loom fails the model if somebody else is at it.
            self.contents.with_mut(|contents| unsafe { *contents = 0 });
        }
        good
    }

    /// The block goes to its pool, which is another thread's.
    fn go_home(&self) {
        assert!(self.word.free(1), "it comes home twice");
        assert_eq!(self.remote.arrive(1), Arrival::First);
    }

    /// The owner collects, and takes the block if it is there.
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
        // The spawn is the program's own hand-over.
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

/// The two frees may both be taken; then the block is in two caches, and the second to hand it out sees that.
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

/// The ring of `src/hardened/quarantine.rs`, whose thread a fork stops anywhere: the child never finds a block twice.
#[test]
fn a_ring_seen_from_a_forked_child_holds_no_block_twice() {
    use crate::sync::AtomicU32;
    const SLOTS: usize = 3;
    check(|| {
        let ring: Arc<[AtomicU32; SLOTS]> = Arc::new([AtomicU32::new(1), AtomicU32::new(2), AtomicU32::new(3)]);
        let theirs = ring.clone();
        // `Quarantine::exchange`, twice.
        let owner = thread::spawn(move || {
            for (block, next, older) in [(4, 0, 1), (5, 1, 2)] {
                let moves = theirs[next].load(Ordering::Relaxed);
                theirs[next].store(block, Ordering::Release);
                theirs[older].store(moves, Ordering::Release);
            }
        });
        // A child sees memory as it was at one instant, so the walk must not begin before a store and end after it: from
        // the slot that is written last backwards.
        let mut seen = [0; SLOTS];
        for slot in (0..SLOTS).rev() {
            seen[slot] = ring[slot].load(Ordering::Acquire);
        }
        owner.join().unwrap();
        assert!(seen[0] != seen[1] && seen[1] != seen[2] && seen[0] != seen[2], "{seen:?}");
    });
}
