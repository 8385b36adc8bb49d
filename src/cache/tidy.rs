//! Upkeep of a cache whose own thread makes no slow calls: another thread does it, with everything behind the door.
//!
//! # Invariants
//! - *Hands off*: the magazines belong to their thread's fast path, which takes no lock. Nothing here reads or writes
//!   them, unless no thread has the cache. Depots, pools and inbox are touched under the door only, so any thread that
//!   holds it may touch them.

use super::ThreadCache;
use crate::heap::Heap;
use crate::heap::door::{Door, DoorCell};
use crate::pool_set::Inside;

/// The state of a cache at the last tick of a purge thread. Zeroed memory is a valid value.
pub(super) struct Seen {
    /// The cache's slow calls so far.
    slow_calls: DoorCell<u64>,
    /// Whether it made none between the last two ticks.
    was_idle: DoorCell<bool>,
    /// Bytes in use at the set's last sweep, plus one; 0 if the cache has made slow calls since.
    swept_at: DoorCell<usize>,
}

impl Seen {
    pub(super) const fn new() -> Self {
        Self { slow_calls: DoorCell::new(0), was_idle: DoorCell::new(false), swept_at: DoorCell::new(0) }
    }
}

impl ThreadCache {
    /// The cache's slow calls of both kinds.
    fn all_calls(&self, door: Door<'_>) -> u64 {
        self.slow_calls.get(door).wrapping_add(self.medium.slow_calls.get(door))
    }

    /// Whether the cache has made no slow call since the last [`tidy_if_idle`](Self::tidy_if_idle).
    fn is_idle(&self, door: Door<'_>) -> bool {
        self.seen.slow_calls.get(door) == self.all_calls(door)
    }

    /// If the cache has made no slow call since the last time: empties its depots, collects the blocks that other
    /// threads freed, and returns its set's empty pools.
    pub(crate) fn tidy_if_idle(&self, heap: &Heap) {
        self.set.visit(heap, |inside| {
            let door = inside.door();
            self.seen.was_idle.set(door, self.is_idle(door));
            if self.is_idle(door) {
                self.flush_behind_door(inside);
                inside.collect();
                inside.return_empty_pools(0);
            } else {
                self.seen.slow_calls.set(door, self.all_calls(door));
                self.seen.swept_at.set(door, 0);
            }
        });
    }

    /// Empties the depots, which are behind the door, and, if no thread has the cache, its magazines, too.
    pub(crate) fn flush_behind_door(&self, inside: &mut Inside<'_>) {
        if self.set.is_parked() {
            self.flush_all(inside);
            self.say_empty(inside.door());
        } else {
            self.flush_depots(inside);
        }
    }

    /// Notes that the cache is empty and that no thread has it.
    pub(super) fn say_empty(&self, door: Door<'_>) {
        self.retire_count(door);
        self.set.cache_is_empty.set(true);
    }

    /// Sweeps the set of a cache that was idle at this tick and still is: gives the free parts of its pools back to the
    /// OS. Does nothing if no block came home since the last sweep.
    pub(crate) fn sweep_if_idle(&self, heap: &Heap) {
        self.set.visit(heap, |inside| {
            let door = inside.door();
            let now = inside.used_bytes().wrapping_add(1);
            // Only blocks that come home change an idle set, and each of them lowers `used_bytes`.
            if self.seen.was_idle.get(door) && self.is_idle(door) && self.seen.swept_at.replace(door, now) != now {
                inside.sweep();
            }
        });
    }
}
