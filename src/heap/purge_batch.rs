//! Ranges on their way back to the OS, gathered so that one call purges many.
//!
//! # Invariants
//! - *Marked*: a range in the batch counts as purged already. If the OS refuses it, it is marked as used again.
//! - *Empty*: the batch is empty whenever the heap's lock is free, and before memory is unmapped.

use core::ptr;

use crate::heap::arena::ArenaRef;
use crate::os::{MemoryRange, MemorySource};

/// Most ranges of a batch. With that many, the cost of the system call itself is negligible.
pub(crate) const RANGES_MAX: usize = 32;

/// The pools, or the parts of a pool, of a range.
#[derive(Clone, Copy)]
pub(crate) struct Marked {
    pub(crate) arena: ArenaRef,
    /// Pools of the arena, as a mask.
    pub(crate) pools: u64,
    /// The parts, as a mask, if the owner of a pool purges parts of it. 0 means the whole pools, which no set owns.
    pub(crate) parts: u64,
}

/// Ranges to purge. Zeroed memory is a valid value: none.
pub(crate) struct PurgeBatch {
    ranges: [MemoryRange; RANGES_MAX],
    marked: [Option<Marked>; RANGES_MAX],
    /// Ranges done: purged, or refused by the OS.
    done: usize,
    count: usize,
}

impl PurgeBatch {
    pub(crate) const fn new() -> Self {
        Self {
            ranges: [MemoryRange { start: ptr::null_mut(), bytes: 0 }; RANGES_MAX],
            marked: [None; RANGES_MAX],
            done: 0,
            count: 0,
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.count == RANGES_MAX
    }

    /// Adds a range to a batch that is not full.
    pub(crate) fn push(&mut self, range: MemoryRange, marked: Marked) {
        self.ranges[self.count] = range;
        self.marked[self.count] = Some(marked);
        self.count += 1;
    }

    /// Purges the ranges up to the first that the OS refuses, and returns that one. `None` means that all ranges are
    /// done, and that the batch is empty.
    ///
    /// # Safety
    /// As for [`MemorySource::purge`], of each range.
    pub(crate) unsafe fn purge(&mut self, source: &dyn MemorySource) -> Option<(MemoryRange, Marked)> {
        while self.done < self.count {
            // If one was refused, others will be, too (a program may lock all its memory). So the rest go one by one.
            let end = if self.done == 0 { self.count } else { self.done + 1 };
            // SAFETY: the caller's promise is the same.
            self.done += unsafe { source.decommit_each(&self.ranges[self.done..end]) };
            if self.done < end {
                let refused = self.done;
                self.done += 1;
                if let Some(marked) = self.marked[refused] {
                    return Some((self.ranges[refused], marked));
                }
            }
        }
        (self.done, self.count) = (0, 0);
        None
    }
}
