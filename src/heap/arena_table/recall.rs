//! Memory that went back to the OS, and that medium blocks wanted again soon after.
//!
//! Free pools beyond a bound lose their memory at once (`purging`). A program that frees many medium blocks, and soon
//! allocates as many, would pay for that with page faults, each time: one for each 4 KiB, so several for a block. So the
//! bound learns. Parts of pools that medium blocks get within `RECALL_MS` of a purge were purged too early; as many more
//! may keep their memory from now on. This allowance sinks by one part in `RECALL_DECAY` every `RECALL_MS`.
//!
//! For small blocks the bound learns nothing: the same page fault serves eight of them at least, so the memory is worth
//! more than the time.
//!
//! # Invariants
//! - *Earned*: the allowance never exceeds what was purged and taken again soon. So because of it, no more memory stays
//!   than the heap had before those purges.

use crate::base::config::{POOLS_PER_ARENA, PURGE_PARTS, RECALL_DECAY, RECALL_MS};
use crate::heap::arena::PoolRef;
use crate::os::MemorySource;

/// What was purged of late, and what that taught. Times are in milliseconds, of the memory source's clock.
pub(super) struct Recall {
    /// Parts of pools, an eighth each, that lost their memory of late and were not taken since.
    purged: usize,
    purged_at: u64,
    /// Parts that may keep their memory beyond the bound.
    allowance: usize,
    sunk_at: u64,
}

impl Recall {
    pub(super) const fn new() -> Self {
        Self { purged: 0, purged_at: 0, allowance: 0, sunk_at: 0 }
    }

    /// Notes that parts of pools lose their memory.
    pub(super) fn note_purged(&mut self, parts: usize, source: &dyn MemorySource) {
        let now = source.now_ms();
        if now.saturating_sub(self.purged_at) > RECALL_MS {
            self.purged = 0;
        }
        self.purged += parts;
        self.purged_at = now;
    }

    /// Notes that the OS refused to take parts.
    pub(super) fn note_kept(&mut self, parts: usize) {
        self.purged = self.purged.saturating_sub(parts);
    }

    /// Notes that `pools` pools are taken, from `first` on, that were not used yet.
    #[inline]
    pub(super) fn note_taken(&mut self, first: PoolRef, pools: usize, source: &dyn MemorySource) {
        if self.purged != 0 {
            let parts_gone = |pool: PoolRef| match pool.has_memory() {
                true => pool.pool().purged().count_ones() as usize,
                false => PURGE_PARTS,
            };
            self.learn(first.run(pools).map(parts_gone).sum(), source);
        }
    }

    /// Notes that an arena is mapped whose memory comes at once, with a huge page.
    pub(super) fn note_huge(&mut self, source: &dyn MemorySource) {
        self.learn(POOLS_PER_ARENA * PURGE_PARTS, source);
    }

    /// Notes that parts without memory are taken.
    #[cold]
    fn learn(&mut self, parts: usize, source: &dyn MemorySource) {
        if self.purged == 0 || parts == 0 {
            return;
        }
        let now = source.now_ms();
        if now.saturating_sub(self.purged_at) > RECALL_MS {
            self.purged = 0;
            return;
        }
        if self.allowance == 0 {
            self.sunk_at = now;
        }
        let recalled = parts.min(self.purged);
        self.purged -= recalled;
        self.allowance += recalled;
    }

    /// The number of pools that may keep their memory beyond the bound.
    pub(super) fn allowance(&mut self, source: &dyn MemorySource) -> usize {
        if self.allowance != 0 {
            let now = source.now_ms();
            while now.saturating_sub(self.sunk_at) >= RECALL_MS && self.allowance != 0 {
                self.allowance -= self.allowance.div_ceil(RECALL_DECAY);
                self.sunk_at += RECALL_MS;
            }
        }
        self.allowance / PURGE_PARTS
    }

    /// Forgets everything.
    pub(super) const fn forget(&mut self) {
        *self = Self::new();
    }
}
