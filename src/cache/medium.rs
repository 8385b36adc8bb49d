//! The part of a thread's cache for the medium classes. It is like the part for small classes, but nothing of it is
//! touched before the thread's first medium request.
//!
//! Observers are told of medium blocks where these enter and leave the allocator `Medium`, as of every large block. So
//! medium magazines need no poison, except with the feature `__raw`: a block is then freed by its address, and a
//! magazine with room would take it before any observer is told.

use core::ptr;

use super::depot::Depot;
use super::magazine::Shape;
use super::{Slot, ThreadCache};
use crate::base::config::{MAGAZINE_SLOTS_MIN, MEDIUM_CLASS_COUNT};
use crate::base::size_class::MediumClass;
use crate::heap::Heap;
use crate::heap::door::{Door, DoorCell};
use crate::pool_set::Inside;
use crate::sync::AtomicPtr;

/// Zeroed memory is a valid value: no magazine has an array.
pub(super) struct PerMediumClass {
    /// Whether the magazines have arrays.
    started: DoorCell<bool>,
    /// Calls on the slow path so far.
    pub(super) slow_calls: DoorCell<u64>,
    /// Visits to classes so far (see `age`).
    pub(super) visits: DoorCell<u64>,
    /// Bytes of the blocks in the depots.
    pub(super) depot_bytes: DoorCell<usize>,
    pub(super) shapes: [Shape; MEDIUM_CLASS_COUNT],
    pub(super) depots: [Depot; MEDIUM_CLASS_COUNT],
    /// The first arrays of the magazines, each behind a slot that holds null.
    pub(super) first_slots: [[Slot; 1 + MAGAZINE_SLOTS_MIN]; MEDIUM_CLASS_COUNT],
}

impl PerMediumClass {
    pub(super) const fn new() -> Self {
        Self {
            started: DoorCell::new(false),
            slow_calls: DoorCell::new(0),
            visits: DoorCell::new(0),
            depot_bytes: DoorCell::new(0),
            shapes: [const { Shape::new() }; MEDIUM_CLASS_COUNT],
            depots: [const { Depot::new() }; MEDIUM_CLASS_COUNT],
            first_slots: [const { [const { AtomicPtr::new(ptr::null_mut()) }; 1 + MAGAZINE_SLOTS_MIN] };
                MEDIUM_CLASS_COUNT],
        }
    }
}

impl ThreadCache {
    /// Gives the medium magazines their first arrays, if they have none yet.
    #[inline]
    pub(super) fn start_medium(&self, door: Door<'_>) {
        if !self.medium.started.replace(door, true) {
            for class in MediumClass::all() {
                self.set_array(class, self.first_array(class), MAGAZINE_SLOTS_MIN, door);
            }
        }
    }

    /// Whether the cache may have medium blocks.
    #[inline]
    pub(super) fn has_medium(&self, door: Door<'_>) -> bool {
        self.medium.started.get(door)
    }

    /// Empties the medium magazines, whose depots are empty, and makes them small again.
    #[cold]
    pub(super) fn make_medium_small(&self, heap: &'static Heap, inside: &mut Inside<'_>) {
        for class in MediumClass::all() {
            self.make_class_small(class, 0, heap, inside);
        }
    }
}
