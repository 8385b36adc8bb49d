//! The roll: a list of the things that exist now, for walks without a lock.
//!
//! An array of addresses in rows. Each row is twice as long as the one before, so the array grows without moving. A new
//! thing is entered behind the last one. When a thing is struck off, the last one takes its place. So the cost of a
//! walk depends on the things that are on the roll, not on all that ever were.
//!
//! # Protocol
//! Changes are made under a lock of the caller's (the heap's lock). *Enter*: the place behind the last is written
//! (Release), then the number of places (Release). *Strike*: the last thing is written to the place of the one that
//! goes (Release), then the number (Release). *Walk*: the number is read (Acquire), then the places from the last to
//! the first (Acquire).
//!
//! # Invariants
//! - *Downwards*: a thing that stays on the roll moves only to a lower place. The lower place is written before the
//!   higher one is written again or leaves the number. A walk goes downwards, too. So it finds everything that was
//!   there when it began and stays: once, or twice if it moves meanwhile.
//! - *Immortal*: places beyond the number keep their contents. So a walk may find a thing that was struck off. That is
//!   harmless, because things are never unmapped.

use core::ptr::{self, NonNull};

use crate::sync::{AtomicPtr, AtomicUsize, Ordering, load_own};

/// A place on a roll.
pub(crate) type Place<T> = AtomicPtr<T>;

/// Places of the first row.
#[cfg(not(pymalloc_loom))]
const FIRST_ROW: usize = 64;
#[cfg(pymalloc_loom)]
const FIRST_ROW: usize = 1;

/// Enough rows for more places than there can be threads.
#[cfg(not(pymalloc_loom))]
const ROWS: usize = 24;
#[cfg(pymalloc_loom)]
const ROWS: usize = 2;

/// Addresses of things that are never unmapped.
pub(crate) struct Roll<T> {
    rows: [AtomicPtr<Place<T>>; ROWS],
    count: AtomicUsize,
}

/// The row of a place, and its number there.
const fn row_of(place: usize) -> (usize, usize) {
    let row = (place / FIRST_ROW + 1).ilog2() as usize;
    (row, place - FIRST_ROW * ((1 << row) - 1))
}

impl<T> Roll<T> {
    /// An empty roll.
    #[cfg(not(pymalloc_loom))]
    pub(crate) const fn new() -> Self {
        Self { rows: [const { AtomicPtr::new(ptr::null_mut()) }; ROWS], count: AtomicUsize::new(0) }
    }

    /// An empty roll.
    #[cfg(pymalloc_loom)]
    pub(crate) fn new() -> Self {
        Self { rows: core::array::from_fn(|_| AtomicPtr::new(ptr::null_mut())), count: AtomicUsize::new(0) }
    }

    /// Number of things on the roll.
    pub(crate) fn count(&self) -> usize {
        // Acquire: pairs with the Release of `enter` and `strike`.
        self.count.load(Ordering::Acquire)
    }

    fn place(&self, place: usize) -> Option<&Place<T>> {
        let (row, number) = row_of(place);
        // Acquire: pairs with the Release of `add_row`.
        let row = NonNull::new(self.rows.get(row)?.load(Ordering::Acquire))?;
        // SAFETY: the row has more than `number` places, and is never unmapped.
        Some(unsafe { row.add(number).as_ref() })
    }

    /// Length of the row that the next `enter` needs, if that row is missing. The caller holds the lock.
    pub(crate) fn missing_row(&self) -> Option<usize> {
        let (row, _) = row_of(load_own(&self.count));
        // Relaxed: written under the lock.
        let row_is_there = self.rows.get(row).is_none_or(|row| !row.load(Ordering::Relaxed).is_null());
        (!row_is_there).then_some(FIRST_ROW << row)
    }

    /// Adds the row that is missing. The caller holds the lock.
    ///
    /// # Safety
    /// `places` points to as many places as [`missing_row`](Self::missing_row) says, each valid for ever, with any
    /// contents.
    pub(crate) unsafe fn add_row(&self, places: NonNull<Place<T>>) {
        if let Some(row) = self.rows.get(row_of(load_own(&self.count)).0) {
            // Release: the places happen before the Acquire in `place`.
            row.store(places.as_ptr(), Ordering::Release);
        }
    }

    /// Enters a thing whose row is there; returns its place. The caller holds the lock.
    pub(crate) fn enter(&self, thing: NonNull<T>) -> usize {
        let count = load_own(&self.count);
        if let Some(place) = self.place(count) {
            // Release: the thing's contents happen before the Acquire of a walk that finds it, at any place.
            place.store(thing.as_ptr(), Ordering::Release);
            // Release: as the place.
            self.count.store(count + 1, Ordering::Release);
        }
        count
    }

    /// Strikes off the thing at `place`. Returns the thing that took its place, unless it was the last. The caller
    /// holds the lock.
    pub(crate) fn strike(&self, place: usize) -> Option<NonNull<T>> {
        let last = load_own(&self.count).checked_sub(1)?;
        let mut moved = None;
        if place != last
            && let (Some(from), Some(to)) = (self.place(last), self.place(place))
        {
            // Relaxed: written under the lock.
            let thing = from.load(Ordering::Relaxed);
            // Release: the thing's contents, as in `enter`.
            to.store(thing, Ordering::Release);
            moved = NonNull::new(thing);
        }
        // Release: a walk that reads the lower number, or what a later `enter` writes to the higher place, finds the
        // thing at the lower place (*Downwards*).
        self.count.store(last, Ordering::Release);
        moved
    }

    /// The thing at a place, if there is one.
    pub(crate) fn at(&self, place: usize) -> Option<NonNull<T>> {
        // Acquire: pairs with the Release of `enter` and `strike`.
        NonNull::new(self.place(place)?.load(Ordering::Acquire))
    }

    /// Walks over the things on the roll (*Downwards*, *Immortal*).
    pub(crate) fn walk(&self) -> impl Iterator<Item = NonNull<T>> + '_ {
        (0..self.count()).rev().filter_map(|place| self.at(place))
    }
}
