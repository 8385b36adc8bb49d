//! Ranges on their way back to the OS, gathered so that one call purges many.
//!
//! # Invariants
//! - *Marked*: what is in the batch counts as purged already; what the OS then refuses is marked as used again.
//! - *Empty*: the batch is empty whenever the heap's lock is free, and before memory is unmapped.

use core::ptr;

use crate::heap::arena::ArenaRef;
use crate::os::{MemoryRange, MemorySource};

/// Ranges of a batch: the kernel's cost of a call is gone among so many.
pub(crate) const RANGES_MAX: usize = 32;

/// What a range is.
#[derive(Clone, Copy)]
pub(crate) struct Marked {
    pub(crate) arena: ArenaRef,
    /// Pools of the arena, as a mask.
    pub(crate) pools: u64,
    /// Parts of that pool, as a mask, which its owner purges; 0: all of the pools, which no set owns.
    pub(crate) parts: u64,
}

/// Ranges to purge. Zeroed memory is a valid value: none.
pub(crate) struct PurgeBatch {
    ranges: [MemoryRange; RANGES_MAX],
    marked: [Option<Marked>; RANGES_MAX],
    /// Those that were seen to.
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

    /// Purges the ranges up to the first that the OS refuses, and returns that one; `None` when all were seen to, and
    /// the batch is empty.
    ///
    /// # Safety
    /// As for [`MemorySource::purge`], of each range.
    pub(crate) unsafe fn purge(&mut self, source: &dyn MemorySource) -> Option<(MemoryRange, Marked)> {
        while self.done < self.count {
            // Where one was refused, others will be (a program may lock all its memory): those that follow go one by
            // one.
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
