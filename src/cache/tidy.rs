//! What another thread does for a cache whose own thread makes no slow calls: all that is behind the door.
//!
//! # Invariants
//! - *Hands off*: the magazines belong to their thread's fast path, which takes no lock; nothing here reads or writes
//!   them, unless no thread has the cache. Depots, pools and inbox are touched under the door only, so any thread that
//!   holds it may.

use super::ThreadCache;
use crate::heap::Heap;
use crate::heap::door::{Door, DoorCell};
use crate::pool_set::Inside;

/// What a purge thread saw of a cache at its last tick. Zeroed memory is a valid value.
pub(super) struct Seen {
    /// The cache's slow calls.
    slow_calls: DoorCell<u64>,
    /// Whether it made none from the tick before to the last.
    was_idle: DoorCell<bool>,
    /// Bytes in use when the set was swept last, plus one; 0 if it has made slow calls since.
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

    /// If the cache has made no slow call since the last time: brings home what is in its depots and what others freed,
    /// and returns its set's empty pools.
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

    /// Empties what is behind the door: the depots, and, if no thread has the cache, its magazines.
    pub(crate) fn flush_behind_door(&self, inside: &mut Inside<'_>) {
        if self.set.is_parked() {
            self.flush_all(inside);
            self.say_empty(inside.door());
        } else {
            self.flush_depots(inside);
        }
    }

    /// Nothing is left in the cache, which no thread has.
    pub(super) fn say_empty(&self, door: Door<'_>) {
        self.retire_count(door);
        self.set.cache_is_empty.set(true);
    }

    /// Gives the free parts of the pools of a cache that was idle at this tick, and still is, back to the OS, unless
    /// they were and nothing came home since.
    pub(crate) fn sweep_if_idle(&self, heap: &Heap) {
        self.set.visit(heap, |inside| {
            let door = inside.door();
            let now = inside.used_bytes().wrapping_add(1);
            // Only blocks that come home change an idle set, and each makes fewer bytes used.
            if self.seen.was_idle.get(door) && self.is_idle(door) && self.seen.swept_at.replace(door, now) != now {
                inside.sweep();
            }
        });
    }
}
