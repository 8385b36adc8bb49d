//! Knocks: collecting for a set whose thread does not come, without waiting for its door.
//!
//! # Invariants
//! - *Answered* (see `lock`): a knock at a door stands; or a collection that began after it answered it; or a thread
//!   has found it and is about to knock in its turn. No thread leaves a door without looking for a knock: `enter`,
//!   `visit`, `try_enter` and `knock` look, and so does the restart of the slow paths after a stop. In a forked child,
//!   the thread that found a knock may be missing, so all inboxes are looked at.
//! - *Quiet*: so when no thread is inside a door or on its way from one, each inbox holds fewer than
//!   [`INBOX_KNOCK_POOLS`](crate::base::config::INBOX_KNOCK_POOLS) pools: the thread whose push reached that number
//!   knocked after it.
//! - *Paid for*: a thread that answers makes one more round only if another thread knocked during the last round.
//!   Before each knock, other threads freed half the blocks of a pool, or blocks of many pools. No round waits, and
//!   none calls itself.

use super::Inside;
use crate::heap::set::PoolSet;
use crate::heap::{Heap, Stopped};

impl PoolSet {
    /// Collects for the set. If another thread is inside, leaves it to that thread.
    #[cold]
    #[cfg_attr(target_os = "linux", unsafe(link_section = ".text_pymalloc"))]
    pub(crate) fn knock(&self, heap: &Heap) {
        while let Some(mut guard) = self.door.lock_or_knock() {
            guard.with(|pools| Inside { heap, set: self, pools }.collect());
            if !self.leave(heap, guard) {
                return;
            }
        }
    }
}

/// Knocks at the door of each set into which others freed.
pub(crate) fn knock_at_all(heap: &Heap) {
    for set in heap.sets() {
        // SAFETY: sets are never unmapped.
        let set = unsafe { set.as_ref() };
        if !set.nothing_arrived() {
            set.knock(heap);
        }
    }
}

impl Heap {
    /// Takes every lock of the heap: afterwards no thread is on a slow path, and none enters one.
    #[must_use]
    pub(crate) fn stop(&self) -> Stopped<'_> {
        self.stop_and_answer(knock_at_all)
    }
}
