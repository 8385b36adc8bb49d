//! The quarantine: a freed block waits before it may be handed out again.
//!
//! A class and thread have two shelves. Frees fill one, while what was freed before waits on the other. When it is
//! full, all blocks of the other go to the magazine, in random order, and that one is filled next. So a block waits for
//! [`STAY_MIN`] further frees of its class by the thread at least, and for less than twice as many; and a free is a
//! push, as on a magazine.
//!
//! # Fork
//! A fork holds every door, so a child finds no cache half flushed or half taken over. Frees run on meanwhile, and the
//! child may find one after any of its stores: its thread is not there, so what it had in hand is lost, and counts as
//! live for ever.
//!
//! | the thread was | in the child |
//! |---|---|
//! | about to store the block that it frees | the block is lost |
//! | between the slot and `next` | it waits; the next block pushed takes its slot, and then it is lost |
//! | copying a shelf above the magazine's `top` | all of it still waits |
//! | storing null in its slots, or about to raise `top` | those with a null are lost, all 32 at most |
//! | behind that, before `next` | they are in the magazine; `attach` finds the empty shelf |
//! | putting them into the magazine one by one, because it had no room for all | one is lost; those after it still wait |
//!
//! So a thread loses 33 blocks at most, with the one that it was freeing; and none is in two places.
//!
//! # Invariants
//! - *Owner*: `next` and the slots are written by the cache's thread only, and, under the door of its set, by who
//!   flushes the cache of a thread that is gone, or takes it over. Both may want to at once.
//! - *Held*: a slot is null, or holds a free block of the class that its pool counts as used, and that is in no other
//!   slot and no magazine; but in the middle of a call, a shelf's blocks may be in none. Stored in this order, with
//!   Release, so that it holds for who recovers the cache in a forked child, too: it may lose a shelf, and never finds
//!   a block twice.
//! - *Shelves*: of the shelf that is filled, the slots before `next` hold blocks, and no others do. Of the other one,
//!   all do or none does, but while it is emptied: then `next` is at the end of the one that is filled.
//! - *Off*: while `end` is null, a free takes the slow path, and what is freed does not wait. So in the stand-ins for a
//!   cache, which threads share, and while the magazines are poisoned: then each free is to be seen as what it is.
//!   Under the door, any thread may make `end` null, or [`SHUT`]; the cache's thread only puts another value in the
//!   place of one that it saw, by an exchange. So none undoes a null by accident, and where a shelf ends is found from
//!   `next` by its owner alone.

use core::ptr;

use crate::base::config::CLASS_COUNT;
use crate::base::size_class::SizeClass;
use crate::heap::door::Door;
use crate::heap::pool::Slot;
use crate::sync::{AtomicPtr, Ordering};

/// Frees of a class by a thread that a freed block waits for, at least: the slots of a shelf.
pub(crate) const STAY_MIN: usize = 32;
/// Most blocks of a class that wait.
#[cfg(test)]
pub(crate) const SLOTS: usize = 2 * STAY_MIN;

/// An `end` that is below every slot: which shelf is filled is to be found out.
const SHUT: *mut Slot = ptr::without_provenance_mut(align_of::<Slot>());

/// Slots whose blocks wait together.
pub(crate) type Shelf = [Slot; STAY_MIN];

/// Where the next freed block of a class goes.
#[repr(C, align(16))]
struct Place {
    /// The first empty slot of the shelf that is filled.
    next: AtomicPtr<Slot>,
    /// Behind its last.
    end: AtomicPtr<Slot>,
}

/// The blocks of a thread that wait. Zeroed memory is a valid value: none, and off.
pub(crate) struct Quarantine {
    places: [Place; CLASS_COUNT],
    shelves: [[Shelf; 2]; CLASS_COUNT],
}

impl Quarantine {
    pub(crate) const fn new() -> Self {
        Self {
            places: [const { Place { next: AtomicPtr::new(ptr::null_mut()), end: AtomicPtr::new(ptr::null_mut()) } };
                CLASS_COUNT],
            shelves: [const { [const { [const { AtomicPtr::new(ptr::null_mut()) }; STAY_MIN] }; 2] }; CLASS_COUNT],
        }
    }

    /// A thread got the cache: a new one; or one that a thread left, empty as a rule. In a forked child it may be as it
    /// was at any moment: then a shelf that was just emptied is made the one that is filled, with what is left on it.
    /// Behind the door, because others may flush it until it is taken over.
    pub(crate) fn attach(&self, door: Door<'_>) {
        for class in SizeClass::all() {
            // Acquire: pairs with the Releases of a thread that a forked child does not have.
            let next = self.place(class).next.load(Ordering::Acquire);
            let [first, second] = self.shelves(class);
            if next.is_null() {
                self.start(class, door);
            } else if next.cast_const() == first.as_ptr_range().end {
                self.continue_on(class, second, door);
            } else if next.cast_const() == second.as_ptr_range().end {
                self.continue_on(class, first, door);
            }
        }
    }

    /// Has `shelf` be filled, which holds some blocks.
    fn continue_on(&self, class: SizeClass, shelf: &Shelf, door: Door<'_>) {
        let count = gather(shelf, door).len();
        // Relaxed: under the door.
        self.place(class).next.store(shelf.as_ptr().wrapping_add(count).cast_mut(), Ordering::Relaxed);
    }

    /// Has freed blocks wait, or not; those that do already stay.
    pub(crate) fn set_on(&self, on: bool, _door: Door<'_>) {
        for place in &self.places {
            // Relaxed: as a magazine's bounds, it may be seen late.
            place.end.store(if on { SHUT } else { ptr::null_mut() }, Ordering::Relaxed);
        }
    }

    #[inline(always)]
    fn place(&self, class: SizeClass) -> &Place {
        // SAFETY: a class's number is below CLASS_COUNT.
        unsafe { self.places.get_unchecked(class.number()) }
    }

    fn shelves(&self, class: SizeClass) -> &[Shelf; 2] {
        &self.shelves[class.number() & (CLASS_COUNT - 1)]
    }

    /// Has `block` wait, if there is room on the shelf that is filled. The cache's thread.
    #[inline(always)]
    pub(crate) fn push(&self, class: SizeClass, block: *mut u8) -> bool {
        let place = self.place(class);
        // Relaxed (both): this thread's own word (*Owner*); whether it is on may be seen late.
        let next = place.next.load(Ordering::Relaxed);
        if next >= place.end.load(Ordering::Relaxed) {
            return false;
        }
        // Release (both): in this order for a forked child (*Held*); pairs with the Acquire in `held` and `attach`.
        // SAFETY: before the end of a shelf (*Off*).
        unsafe { &*next }.store(block, Ordering::Release);
        // SAFETY: at most one past its end.
        place.next.store(unsafe { next.add(1) }, Ordering::Release);
        true
    }

    /// Whether freed blocks of `class` don't wait.
    pub(crate) fn is_off(&self, class: SizeClass) -> bool {
        // Relaxed: as in `set_on`.
        self.place(class).end.load(Ordering::Relaxed).is_null()
    }

    /// Where the next block of `class` goes.
    #[cfg(test)]
    pub(super) fn next(&self, class: SizeClass) -> *mut Slot {
        self.place(class).next.load(Ordering::Relaxed)
    }

    /// Makes room for a block; before, if the shelf that is filled is full, `body` empties the other one, whose blocks
    /// have waited long enough. The cache's thread.
    #[inline(always)]
    pub(crate) fn turn(&self, class: SizeClass, body: impl FnOnce(&Shelf)) {
        let place = self.place(class);
        // Relaxed (all but one): as in `push`.
        let end = place.end.load(Ordering::Relaxed);
        let next = place.next.load(Ordering::Relaxed);
        let [first, second] = self.shelves(class);
        // The start of the second is the end of the first: nothing was pushed there yet.
        let is_first = next.cast_const() <= second.as_ptr();
        let (filled, other) = if is_first { (first, second) } else { (second, first) };
        let mut behind = filled.as_ptr_range().end;
        if next.cast_const() >= behind {
            body(other);
            behind = other.as_ptr_range().end;
            // Release: after the slots are null; pairs with the Acquire in `attach`.
            place.next.store(other.as_ptr().cast_mut(), Ordering::Release);
        }
        if !end.is_null() {
            // May fail: it is off by now, or was; the next free looks again.
            let _ = place.end.compare_exchange(end, behind.cast_mut(), Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// The next block goes to the start of the first shelf.
    fn start(&self, class: SizeClass, _door: Door<'_>) {
        // Relaxed: under the door.
        self.place(class).next.store(self.shelves(class)[0].as_ptr().cast_mut(), Ordering::Relaxed);
    }

    /// The blocks that wait: a snapshot while the cache's thread runs, which may empty a slot at any moment.
    pub(crate) fn held(&self, class: SizeClass, _door: Door<'_>) -> impl Iterator<Item = *mut u8> {
        // Acquire: pairs with the Release in `push`, and of the magazine's `top`.
        self.shelves(class).iter().flatten().map(|slot| slot.load(Ordering::Acquire)).filter(|block| !block.is_null())
    }

    /// Takes all blocks of `class` out, and shows them to `body`, a shelf at a time. By the cache's thread, or
    /// without one.
    pub(crate) fn empty(&self, class: SizeClass, door: Door<'_>, mut body: impl FnMut(&[Slot])) {
        for shelf in self.shelves(class) {
            body(gather(shelf, door));
            // Relaxed: under the door.
            shelf.iter().for_each(|slot| slot.store(ptr::null_mut(), Ordering::Relaxed));
        }
        self.start(class, door);
        if !self.is_off(class) {
            // Relaxed: under the door.
            self.place(class).end.store(SHUT, Ordering::Relaxed);
        }
    }
}

/// Moves the blocks of a shelf to its first slots; returns these. Nobody else writes it.
fn gather<'shelf>(shelf: &'shelf Shelf, _door: Door<'_>) -> &'shelf [Slot] {
    let mut count = 0;
    for slot in shelf {
        // Acquire: the thread may be one that a forked child does not have.
        let block = slot.load(Ordering::Acquire);
        if let (false, Some(place)) = (block.is_null(), shelf.get(count)) {
            // Relaxed (both): under the door.
            slot.store(ptr::null_mut(), Ordering::Relaxed);
            place.store(block, Ordering::Relaxed);
            count += 1;
        }
    }
    shelf.get(..count).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::boxed::Box;
    use std::vec::Vec;

    const CLASS: SizeClass = SizeClass::SMALLEST;

    fn block(number: usize) -> *mut u8 {
        ptr::without_provenance_mut(number)
    }

    /// Has blocks of these numbers wait; those that leave are forgotten.
    fn push_all(quarantine: &Quarantine, numbers: impl Iterator<Item = usize>) {
        for number in numbers {
            if !quarantine.push(CLASS, block(number)) {
                quarantine
                    .turn(CLASS, |shelf| shelf.iter().for_each(|slot| slot.store(ptr::null_mut(), Ordering::Relaxed)));
                assert!(quarantine.push(CLASS, block(number)), "no room after a turn");
            }
        }
    }

    fn door() -> Door<'static> {
        // SAFETY: each test has its quarantine for itself.
        unsafe { Door::held() }
    }

    fn held(quarantine: &Quarantine) -> Vec<usize> {
        let mut held: Vec<_> = quarantine.held(CLASS, door()).map(<*mut u8>::addr).collect();
        held.sort_unstable();
        held
    }

    fn quarantine() -> Box<Quarantine> {
        let quarantine = Box::new(Quarantine::new());
        quarantine.attach(door());
        quarantine.set_on(true, door());
        quarantine
    }

    #[test]
    fn the_last_blocks_freed_wait_whenever_it_is_turned_off_and_on() {
        let quarantine = quarantine();
        for number in 1..500 {
            push_all(&quarantine, number..=number);
            quarantine.set_on(false, door());
            assert!(!quarantine.push(CLASS, block(number)) && quarantine.is_off(CLASS));
            quarantine.set_on(true, door());
            let held = held(&quarantine);
            assert!(held.len() >= number.min(STAY_MIN) && held.len() <= SLOTS);
            assert_eq!(held, (number + 1 - held.len()..=number).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_cache_left_as_a_shelf_was_emptied_goes_on_with_the_blocks_that_are_left() {
        for turns in 0..2 {
            let quarantine = quarantine();
            let last = SLOTS + turns * STAY_MIN;
            push_all(&quarantine, 1..=last);
            let half_emptied = quarantine.shelves(CLASS)[turns].iter().skip(turns).step_by(2);
            half_emptied.for_each(|slot| slot.store(ptr::null_mut(), Ordering::Relaxed));
            let left = held(&quarantine);
            quarantine.attach(door());
            assert_eq!(held(&quarantine), left);
            let room = SLOTS - left.len();
            (1..=room).for_each(|number| push_all(&quarantine, last + number..=last + number));
            assert_eq!(held(&quarantine).len(), SLOTS, "a block was lost");
        }
    }

    #[test]
    fn what_was_emptied_starts_anew() {
        let quarantine = quarantine();
        push_all(&quarantine, 1..=STAY_MIN + 5);
        let mut shown = 0;
        quarantine.empty(CLASS, door(), |slots| shown += slots.len());
        assert_eq!((shown, held(&quarantine).len()), (STAY_MIN + 5, 0));
        push_all(&quarantine, 1..=SLOTS);
        assert_eq!(held(&quarantine).len(), SLOTS);
        quarantine.set_on(false, door());
        quarantine.empty(CLASS, door(), |_| ());
        assert!(quarantine.is_off(CLASS) && !quarantine.push(CLASS, block(1)), "it is on again");
    }
}
