//! Free pools, and parts of pools in use, on their way back to the OS.

use core::ptr::NonNull;

use super::{ArenaTable, run_mask};
use crate::base::config::{
    ARENA_BYTES, POOL_BYTES, POOLS_PER_ARENA, PURGE_ARENAS_MAX, PURGE_FROM_POOLS, PURGE_PARTS, PURGE_UNIT_BYTES,
};
use crate::heap::arena::{ALL_POOLS, Arena, ArenaRef, PoolRef};
use crate::heap::commits;
use crate::heap::purge_batch::Marked;
use crate::os::{MemoryRange, MemorySource};

/// The highest `count` bits of `mask`, or all if there are fewer.
const fn highest_bits(mut mask: u64, count: usize) -> u64 {
    while mask.count_ones() as usize > count {
        mask &= mask - 1;
    }
    mask
}

/// The free pools to purge for `mask`: its dirty pools. Where an OS page holds several pools, all pools of an OS page
/// are purged together, and an OS page with a pool in use is left out.
fn purgeable(arena: &Arena, mask: u64, page_pools: usize) -> u64 {
    let wanted = arena.dirty.get() & mask;
    if page_pools == 1 {
        return wanted;
    }
    let pages = (0..POOLS_PER_ARENA).step_by(page_pools).map(|first| run_mask(first, first + page_pools));
    pages.filter(|page| wanted & page != 0 && arena.free.get() & page == *page).fold(0, |all, page| all | page)
}

/// Asks for small pages in an arena, before a hole is made in it. Otherwise the kernel would fill the hole when it
/// makes the arena a huge page again.
pub(super) fn no_longer_huge(arena: &Arena, source: &dyn MemorySource) {
    if arena.huge.replace(false)
        && let Some(start) = NonNull::new(arena.start())
    {
        // SAFETY: the arena's memory.
        unsafe { source.advise_huge(start, ARENA_BYTES, false) };
    }
}

impl ArenaTable {
    /// Purges dirty pools if more than an arena's worth are too many, of a few arenas: so no thread waits long for the
    /// lock, and pools that come back one by one share a call of the OS.
    ///
    /// Some dirty pools may not go: the OS refuses (a program may lock its memory), or they share an OS page with a
    /// pool in use. As many as were left once are not tried again until more are too many.
    pub(crate) fn purge_excess(&mut self, source: &dyn MemorySource) {
        let excess = self.excess(0, source);
        self.stuck = self.stuck.min(excess);
        if excess <= PURGE_FROM_POOLS + self.stuck {
            return;
        }
        let is_purged = self.purge_beyond(self.dirty_pools - excess, PURGE_ARENAS_MAX, source);
        self.stuck = if is_purged { 0 } else { excess };
    }

    /// Marks the dirty pools of `mask` as purged, as far as they are whole OS pages, and puts them into the batch.
    /// Returns whether there are any.
    pub(super) fn mark_pools(&mut self, arena: ArenaRef, mask: u64, source: &dyn MemorySource) -> bool {
        let all = purgeable(&arena, mask, source.page_bytes().div_ceil(POOL_BYTES));
        let mut rest = all;
        while rest != 0 {
            // A run of neighbours is one range.
            let first = rest.trailing_zeros() as usize;
            let end = first + (rest >> first).trailing_ones() as usize;
            let run = run_mask(first, end);
            rest &= !run;
            let start = arena.start().wrapping_add(first * POOL_BYTES);
            let bytes = (end - first) * POOL_BYTES;
            no_longer_huge(&arena, source);
            let mut parts = 0;
            for index in first..end {
                let pool = PoolRef::at_index(arena, index).pool();
                if arena.dirty.get() >> index & 1 == 1 {
                    parts += PURGE_PARTS - pool.purged().count_ones() as usize;
                }
                // Parts that have to be committed stay noted, in case the OS refuses.
                pool.set_untouched(if commits(source) { pool.purged() } else { 0 });
            }
            arena.backed.set(arena.backed.get() & !run);
            let dirty = (arena.dirty.get() & run).count_ones() as usize;
            self.recall.note_purged(parts, source);
            self.dirty_pools -= dirty;
            arena.dirty.set(arena.dirty.get() & !run);
            self.mark(MemoryRange { start, bytes }, Marked { arena, pools: run, parts: 0 }, source);
        }
        all != 0
    }

    /// Puts a range that is marked as purged into the batch. Purges the batch first if it is full.
    fn mark(&mut self, range: MemoryRange, marked: Marked, source: &dyn MemorySource) {
        if self.batch.is_full() {
            self.purge_batch(source);
        }
        self.bytes_given_back += range.bytes;
        self.batch.push(range, marked);
    }

    /// Gives all ranges of the batch back to the OS.
    pub(super) fn purge_batch(&mut self, source: &dyn MemorySource) {
        // SAFETY: arenas' memory, in pools that no set owns, or in parts that their owner gives.
        while let Some((range, marked)) = unsafe { self.batch.purge(source) } {
            self.unmark(range, marked);
        }
    }

    /// Undoes the mark of a range that the OS refused to purge.
    fn unmark(&mut self, range: MemoryRange, marked: Marked) {
        self.bytes_given_back -= range.bytes;
        self.recall.note_kept(range.bytes / PURGE_UNIT_BYTES);
        let arena = marked.arena;
        for pool in arena.pools().filter(|pool| marked.pools >> pool.index() & 1 == 1) {
            if marked.parts == 0 {
                pool.pool().set_touched();
            } else {
                pool.pool().remove_purged(marked.parts as u8);
                // For parts that were never touched, only this bit tells that they may have memory.
                pool.set_backed(pool.pool().any_class().pool_pools(), true);
            }
        }
        if marked.parts == 0 {
            self.dirty_pools += marked.pools.count_ones() as usize;
            arena.dirty.set(arena.dirty.get() | marked.pools);
        }
    }

    /// Purges those parts of the given pools, which the caller owns, in which all blocks are free.
    pub(crate) fn purge_parts(&mut self, pools: impl Iterator<Item = PoolRef>, source: &dyn MemorySource) {
        for pool in pools {
            let class = pool.pool().any_class();
            if !class.purge_unit_bytes().is_multiple_of(source.page_bytes()) {
                continue;
            }
            let parts = pool.pool().purgeable(pool.is_any_backed(class.pool_pools()));
            if parts != 0 {
                self.mark_parts(pool, parts, source);
            }
        }
        self.purge_batch(source);
    }

    /// Marks parts of an owned pool as purged.
    fn mark_parts(&mut self, pool: PoolRef, parts: u8, source: &dyn MemorySource) {
        let arena = pool.arena();
        no_longer_huge(&arena, source);
        let class = pool.pool().any_class();
        let unit_bytes = class.purge_unit_bytes();
        self.recall.note_purged(parts.count_ones() as usize * unit_bytes / PURGE_UNIT_BYTES, source);
        pool.pool().add_purged(parts);
        pool.set_backed(class.pool_pools(), false);
        let mut rest = parts;
        while rest != 0 {
            // A run of neighbours is one range.
            let first = rest.trailing_zeros();
            let count = (rest >> first).trailing_ones();
            let run = (u8::MAX >> (u8::BITS - count)) << first;
            rest &= !run;
            let start = pool.pool().start().wrapping_add(first as usize * unit_bytes);
            let bytes = count as usize * unit_bytes;
            let marked = Marked { arena, pools: 1 << pool.index(), parts: run.into() };
            self.mark(MemoryRange { start, bytes }, marked, source);
        }
    }

    /// Purges every free pool.
    pub(crate) fn purge_all(&mut self, source: &dyn MemorySource) {
        for free in 1..=POOLS_PER_ARENA {
            let mut next = self.lists[free];
            while let Some(arena) = next {
                // Purging moves no arena between the lists.
                self.mark_pools(arena, ALL_POOLS, source);
                next = arena.next.get();
            }
        }
        self.purge_batch(source);
    }

    /// Purges dirty pools as long as more than `keep` are left, in at most `arenas_max` arenas. The emptiest arenas
    /// come first, because pools of the fullest will be taken again soon. Returns `false` if no pool was purged.
    pub(crate) fn purge_beyond(&mut self, keep: usize, arenas_max: usize, source: &dyn MemorySource) -> bool {
        let before = self.dirty_pools;
        let mut arenas = 0;
        for free in (1..=POOLS_PER_ARENA).rev() {
            let mut next = self.lists[free];
            while let Some(arena) = next
                && arenas < arenas_max
                && self.dirty_pools > keep
            {
                // Purging moves no arena between the lists.
                let mask = highest_bits(arena.dirty.get(), self.dirty_pools - keep);
                arenas += usize::from(self.mark_pools(arena, mask, source));
                next = arena.next.get();
            }
        }
        self.purge_batch(source);
        self.dirty_pools < before
    }

    /// Purges the free pools of one arena.
    pub(crate) fn purge_arena(&mut self, arena: ArenaRef, source: &dyn MemorySource) {
        self.mark_pools(arena, ALL_POOLS, source);
        self.purge_batch(source);
    }
}
