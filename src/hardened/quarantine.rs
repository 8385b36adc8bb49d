//! The quarantine: a freed block waits before it may be handed out again.
//!
//! A ring a class and thread. Each free puts a block where the oldest was, and takes out one of the older half at random;
//! the oldest goes to the place of that one. So a block stays for at least [`STAY_MIN`] further frees of its class by the
//! thread, and then leaves with a chance of one in [`STAY_MIN`] at each: when, nobody can foretell.
//!
//! # Invariants
//! - *Owner*: `next` and the slots are written by the cache's thread only, and, under the door of its set, by who flushes
//!   the cache of a thread that is gone.
//! - *Held*: a slot is null, or holds a free block of the class that its pool counts as used, and that is in no other slot
//!   and no magazine; but in the middle of a call, a block may be in none. Stored in this order, with Release, so that it
//!   holds for who recovers the cache in a forked child, too: it may lose a block, and never finds one twice.
//! - *Off*: while `on` is 0, the ring is not touched by its thread. So in the stand-ins for a cache, which threads share,
//!   and while the magazines are poisoned: then each free is to be seen as what it is.

use core::cell::Cell;
use core::ptr;

use super::random::Random;
use crate::config::CLASS_COUNT;
use crate::pool_set::Slot;
use crate::size_class::SizeClass;
use crate::sync::{AtomicPtr, AtomicU32, Ordering};

const STAY_BITS: u32 = 5;
/// Frees of a class by a thread that a freed block waits for, at least.
pub(crate) const STAY_MIN: usize = 1 << STAY_BITS;
/// Most blocks of a class that wait.
pub(crate) const SLOTS: usize = 2 * STAY_MIN;

/// The blocks of one class that wait.
struct Ring {
    /// Where the next block goes: the oldest's place.
    next: Cell<usize>,
    slots: [Slot; SLOTS],
}

/// The blocks of a thread that wait. Zeroed memory is a valid value: none, and off.
pub(crate) struct Quarantine {
    on: AtomicU32,
    rings: [Ring; CLASS_COUNT],
}

impl Quarantine {
    pub(crate) const fn new() -> Self {
        Self {
            on: AtomicU32::new(0),
            rings: [const { Ring { next: Cell::new(0), slots: [const { AtomicPtr::new(ptr::null_mut()) }; SLOTS] } };
                CLASS_COUNT],
        }
    }

    /// Has freed blocks wait, or not; those that do already stay. Door.
    pub(crate) fn set_on(&self, on: bool) {
        // Relaxed: as a magazine's bounds, it may be seen late.
        self.on.store(u32::from(on), Ordering::Relaxed);
    }

    #[inline(always)]
    pub(crate) fn is_on(&self) -> bool {
        // Relaxed: as in `set_on`.
        self.on.load(Ordering::Relaxed) != 0
    }

    #[inline(always)]
    fn ring(&self, class: SizeClass) -> &Ring {
        &self.rings[class.number() & (CLASS_COUNT - 1)]
    }

    /// Has `block` wait, and returns one that has waited, or null. The cache's thread, while it is on.
    #[inline(always)]
    pub(crate) fn exchange(&self, class: SizeClass, block: *mut u8, random: &Random) -> *mut u8 {
        let ring = self.ring(class);
        let next = ring.next.get();
        let oldest = &ring.slots[next % SLOTS];
        // Never the oldest's own place.
        let older = &ring.slots[(next + 1 + random.bits::<STAY_BITS>()) % SLOTS];
        ring.next.set((next + 1) % SLOTS);
        // Relaxed (both loads): this thread's own, or ordered by the door that it got the cache by.
        let leaves = older.load(Ordering::Relaxed);
        let moves = oldest.load(Ordering::Relaxed);
        // Release (both): in this order for a forked child (*Held*); pairs with the Acquire in `held`.
        oldest.store(block, Ordering::Release);
        older.store(moves, Ordering::Release);
        leaves
    }

    /// The slots that hold a block. Door; a snapshot while the cache's thread runs.
    pub(crate) fn held(&self, class: SizeClass) -> impl Iterator<Item = &Slot> {
        // Acquire: pairs with the Release in `exchange`.
        self.ring(class).slots.iter().filter(|slot| !slot.load(Ordering::Acquire).is_null())
    }

    /// Takes all blocks of `class` out, and shows them to `body`. Door, and by the cache's thread or without one.
    pub(crate) fn empty(&self, class: SizeClass, body: impl FnOnce(&[Slot])) {
        let slots = &self.ring(class).slots;
        let mut count = 0;
        for slot in slots {
            // Relaxed: under the door. Acquire: the thread may be one that a forked child does not have.
            let block = slot.load(Ordering::Acquire);
            if let (false, Some(place)) = (block.is_null(), slots.get(count)) {
                place.store(block, Ordering::Relaxed);
                count += 1;
            }
        }
        body(slots.get(..count).unwrap_or_default());
        slots.iter().for_each(|slot| slot.store(ptr::null_mut(), Ordering::Relaxed));
    }
}
