//! The quarantine: a freed block waits before it may be handed out again.
//!
//! Each thread has two shelves per class. Frees fill one shelf, while the blocks freed before wait on the other. When
//! the one is full, all blocks of the other go to the magazine, in random order, and the other is filled next. So a
//! block waits for at least [`STAY_MIN`] further frees of its class by the thread, and for less than twice as many. A
//! free is a push, as on a magazine.
//!
//! # Fork
//! A fork holds every door, so the child finds no cache half flushed or half taken over. But the frees of other threads
//! run on meanwhile, and the child may find one interrupted after any of its stores. The thread does not exist in the
//! child, so a block in its hands is lost, and counts as live for ever.
//!
//! | the thread was | in the child |
//! |---|---|
//! | about to store the block that it frees | the block is lost |
//! | between the slot and `next` | it waits; the next block pushed takes its slot, and then it is lost |
//! | copying a shelf above the magazine's `top` | all of it still waits |
//! | storing null in its slots, or about to raise `top` | those with a null are lost, all 32 at most |
//! | past that, about to store `next` | they are in the magazine; `attach` finds the empty shelf |
//! | putting them one by one into a magazine without room for all | one is lost, the next ones wait |
//!
//! So a thread loses at most 33 blocks, with the one that it was freeing. No block is in two places.
//!
//! # Invariants
//! - *Owner*: only the cache's thread writes `next` and the slots. If that thread is gone, a thread that flushes the
//!   cache or takes it over writes them, under the door of its set; two such threads may come at once.
//! - *Held*: a slot is null, or holds a free block of the class that its pool counts as used, and that is in no other
//!   slot and no magazine. In the middle of a call, a shelf's blocks may be in no slot and no magazine. The stores are
//!   ordered, with Release, so that this holds in a forked child, too: a thread that recovers the cache there may lose
//!   a shelf, but never finds a block twice.
//! - *Shelves*: on the shelf that is filled, the slots before `next` hold blocks, and no others do. On the other shelf,
//!   all slots hold blocks or none does, except while it is emptied: then `next` is at the end of the shelf that is
//!   filled.
//! - *Off*: while `end` is null, a free takes the slow path, and freed blocks do not wait. This is so in the stand-ins
//!   for a cache, which threads share, and while the magazines are poisoned, because then observers see each free at
//!   its call. Under the door, any thread may set `end` to null or to [`SHUT`]. The cache's thread only exchanges a
//!   value that it saw for another. So no thread undoes a null by accident. Only the owner finds out, from `next`,
//!   where a shelf ends.

use core::ptr;

use crate::base::config::CLASS_COUNT;
use crate::base::size_class::SizeClass;
use crate::heap::door::Door;
use crate::heap::pool::Slot;
use crate::sync::{AtomicPtr, Ordering};

/// The slots of a shelf: a freed block waits for at least that many further frees of its class by its thread.
pub(crate) const STAY_MIN: usize = 32;
/// Most blocks of a class that wait.
#[cfg(test)]
pub(crate) const SLOTS: usize = 2 * STAY_MIN;

/// An `end` that is below every slot: the slow path has to find out which shelf is filled.
const SHUT: *mut Slot = ptr::without_provenance_mut(align_of::<Slot>());

/// Slots whose blocks wait together.
pub(crate) type Shelf = [Slot; STAY_MIN];

/// Where the next freed block of a class goes.
#[repr(C, align(16))]
struct Place {
    /// The first empty slot of the shelf that is filled.
    next: AtomicPtr<Slot>,
    /// One past its last slot.
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

    /// Prepares the quarantine of a cache that a thread got. The cache is new, or a thread left it, empty as a rule. In
    /// a forked child, the thread may have left it at any moment; then a shelf that was just being emptied becomes the
    /// one that is filled, with the blocks left on it. Under the door, because other threads may flush it until it is
    /// taken over.
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

    /// Makes `shelf`, which may hold some blocks, the one that is filled.
    fn continue_on(&self, class: SizeClass, shelf: &Shelf, door: Door<'_>) {
        let count = gather(shelf, door).len();
        // Relaxed: under the door.
        self.place(class).next.store(shelf.as_ptr().wrapping_add(count).cast_mut(), Ordering::Relaxed);
    }

    /// Switches the quarantine on or off. Blocks that wait already stay.
    pub(crate) fn set_on(&self, on: bool, _door: Door<'_>) {
        for place in &self.places {
            // Relaxed: it may be seen late, like a magazine's bounds.
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

    /// Adds `block`, if there is room on the shelf that is filled. For the cache's thread only.
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

    /// Makes room for a block. If the shelf that is filled is full, `body` first empties the other one, whose blocks
    /// have waited long enough. For the cache's thread only.
    #[inline(always)]
    pub(crate) fn turn(&self, class: SizeClass, body: impl FnOnce(&Shelf)) {
        let place = self.place(class);
        // Relaxed (all but one): as in `push`.
        let end = place.end.load(Ordering::Relaxed);
        let next = place.next.load(Ordering::Relaxed);
        let [first, second] = self.shelves(class);
        // The start of the second is the end of the first: if `next` is there, nothing was pushed to the second yet.
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
            // May fail, if the quarantine was switched meanwhile; the next free looks again.
            let _ = place.end.compare_exchange(end, behind.cast_mut(), Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// Makes the next block go to the start of the first shelf.
    fn start(&self, class: SizeClass, _door: Door<'_>) {
        // Relaxed: under the door.
        self.place(class).next.store(self.shelves(class)[0].as_ptr().cast_mut(), Ordering::Relaxed);
    }

    /// The blocks that wait: a snapshot while the cache's thread runs, which may empty a slot at any moment.
    pub(crate) fn held(&self, class: SizeClass, _door: Door<'_>) -> impl Iterator<Item = *mut u8> {
        // Acquire: pairs with the Release in `push`, and with the Release store of the magazine's `top`.
        self.shelves(class).iter().flatten().map(|slot| slot.load(Ordering::Acquire)).filter(|block| !block.is_null())
    }

    /// Takes out all blocks of `class`, and shows them to `body`, a shelf at a time. For the cache's thread, or when
    /// the cache has none.
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

/// Moves the blocks of a shelf to its first slots, and returns these. No other thread writes the shelf.
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

    /// Adds blocks of these numbers; those that leave are forgotten.
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
