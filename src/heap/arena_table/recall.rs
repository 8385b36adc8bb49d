//! Memory that went back to the OS, and that medium blocks wanted again soon after.
//!
//! Free pools beyond a bound lose their memory at once (`purging`). A program that frees many medium blocks, and soon
//! allocates as many, would pay for that with page faults, each time: one for each 4 KiB, so several for a block. So
//! the bound learns. Parts of pools that medium blocks get within `RECALL_MS` of a purge were purged too early; as many
//! more may keep their memory from now on. This allowance sinks by one part in `RECALL_DECAY` every `RECALL_MS`.
//!
//! Small blocks teach the bound nothing: one page fault serves eight of them at least, so the memory is worth more than
//! the time. What they take is only no longer counted as purged.
//!
//! # Invariants
//! - *Earned*: the allowance never exceeds what was purged and taken again soon.
//! - *Peak*: because of it, no more pools have memory than were in use at the recent peak, and one part in
//!   `RECALL_PEAK_SHARE` more. Otherwise, memory of one size class would stay beside that of the next, which needs its
//!   pools in another arrangement.

use crate::base::config::{POOLS_PER_ARENA, PURGE_PARTS, RECALL_DECAY, RECALL_MS, RECALL_PEAK_SHARE};
use crate::heap::arena::PoolRef;
use crate::os::MemorySource;

/// What was purged of late, and what that taught. Times are in milliseconds, of the memory source's clock.
pub(super) struct Recall {
    /// Parts of pools, an eighth each, that lost their memory of late and were not taken since.
    purged: usize,
    purged_at: u64,
    /// Parts that may keep their memory beyond the bound.
    allowance: usize,
    /// Most pools in use of late, as far as medium blocks saw it.
    peak: usize,
    sunk_at: u64,
}

impl Recall {
    pub(super) const fn new() -> Self {
        Self { purged: 0, purged_at: 0, allowance: 0, peak: 0, sunk_at: 0 }
    }

    /// Notes that parts of pools lose their memory.
    pub(super) fn note_purged(&mut self, parts: usize, source: &dyn MemorySource) {
        if parts == 0 {
            return;
        }
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

    /// Notes that `pools` pools are taken for medium blocks, from `first` on, that were not used yet. With them,
    /// `in_use` are in use. Returns whether the heap has more memory now because of an allowance.
    #[inline]
    pub(super) fn note_taken(
        &mut self,
        first: PoolRef,
        pools: usize,
        in_use: usize,
        source: &dyn MemorySource,
    ) -> bool {
        self.peak = self.peak.max(in_use);
        if self.purged == 0 && self.allowance == 0 {
            return false;
        }
        let parts = first.run(pools).map(parts_gone).sum();
        self.learn(parts, source);
        parts != 0 && self.allowance != 0
    }

    /// Notes that a pool is taken for small blocks that was not used yet.
    #[inline]
    pub(super) fn note_other(&mut self, pool: PoolRef) {
        if self.purged != 0 {
            self.purged = self.purged.saturating_sub(parts_gone(pool));
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
        self.sink(now);
        if self.allowance == 0 {
            self.sunk_at = now;
        }
        let recalled = parts.min(self.purged);
        self.purged -= recalled;
        self.allowance += recalled;
    }

    /// The number of pools that may keep their memory beyond the bound, while `in_use` pools are in use.
    pub(super) fn allowance(&mut self, in_use: usize, source: &dyn MemorySource) -> usize {
        self.earned(source).min((self.peak + self.peak / RECALL_PEAK_SHARE).saturating_sub(in_use))
    }

    /// The number of pools that were purged and taken again soon, of late.
    pub(super) fn earned(&mut self, source: &dyn MemorySource) -> usize {
        if self.allowance != 0 {
            self.sink(source.now_ms());
        }
        self.allowance / PURGE_PARTS
    }

    /// Lowers the allowance and the peak by what passed since they sank last.
    fn sink(&mut self, now: u64) {
        while now.saturating_sub(self.sunk_at) >= RECALL_MS && self.allowance != 0 {
            self.allowance -= self.allowance.div_ceil(RECALL_DECAY);
            self.peak -= self.peak / RECALL_DECAY;
            self.sunk_at += RECALL_MS;
        }
    }

    /// Forgets everything.
    pub(super) const fn forget(&mut self) {
        *self = Self::new();
    }
}

/// The parts of a free pool that have no memory.
fn parts_gone(pool: PoolRef) -> usize {
    if pool.has_memory() { pool.pool().purged().count_ones() as usize } else { PURGE_PARTS }
}
