//! Pools side by side: runs, and the pools of medium classes.

use core::iter::successors;

use super::ArenaTable;
use super::purging::no_longer_huge;
use crate::base::config::{POOL_BYTES, POOLS_PER_ARENA, PURGE_PARTS, RUN_LOOKS};
use crate::heap::arena::{ALL_POOLS, ArenaRef, PoolRef};
use crate::os::MemorySource;

/// The first of `pools` pools side by side that are all in `mask`: the lowest one at a multiple of `align`, a power of
/// two.
const fn first_run(mask: u64, pools: usize, align: usize) -> Option<usize> {
    let mut starts = mask;
    let mut length = 1;
    while length < pools {
        let more = if length < pools - length { length } else { pools - length };
        starts &= starts >> more;
        length += more;
    }
    if align > 1 {
        starts &= u64::MAX / (u64::MAX >> (u64::BITS as usize - align));
    }
    if starts == 0 { None } else { Some(starts.trailing_zeros() as usize) }
}

impl ArenaTable {
    /// Takes `pools` free pools side by side, the first at a multiple of `align` pools, from the fullest arena that has
    /// them. The caller owns them then. It looks into at most `RUN_LOOKS` arenas; after that it takes an empty one,
    /// which always has them.
    pub(crate) fn take_run(&mut self, pools: usize, align: usize, source: &dyn MemorySource) -> Option<PoolRef> {
        let (arena, index) = self.find_run(pools, align)?;
        let first = PoolRef::at_index(arena, index);
        self.take_side_by_side(first, pools, source);
        Some(first)
    }

    /// Takes free pools of one arena, `pools` from `first` on.
    fn take_side_by_side(&mut self, first: PoolRef, pools: usize, source: &dyn MemorySource) {
        let arena = first.arena();
        let mask = first.run_mask(pools);
        let is_more = self.recall.note_taken(first, pools, self.pools_in_use() + pools, source);
        self.unlink(arena);
        arena.free.set(arena.free.get() & !mask);
        self.free_pools -= pools;
        let dirty = (arena.dirty.get() & mask).count_ones() as usize;
        self.dirty_pools -= dirty;
        arena.dirty.set(arena.dirty.get() & !mask);
        self.link(arena);
        if is_more {
            self.purge_excess(source);
        }
    }

    fn find_run(&self, pools: usize, align: usize) -> Option<(ArenaRef, usize)> {
        let mut lists = self.with_free & (u64::MAX << (pools - 1));
        let mut looks = 0;
        while lists != 0 && looks < RUN_LOOKS {
            let first = *self.lists.get(lists.trailing_zeros() as usize + 1)?;
            lists &= lists - 1;
            for arena in successors(first, |arena| arena.next.get()).take(RUN_LOOKS - looks) {
                if let Some(index) = first_run(arena.free.get(), pools, align) {
                    return Some((arena, index));
                }
                looks += 1;
            }
        }
        self.empty_arena().map(|arena| (arena, 0))
    }

    /// Extends the run of `length` pools at `first` by the `pools` behind it, if they are free.
    pub(crate) fn extend_run(
        &mut self,
        first: PoolRef,
        length: usize,
        pools: usize,
        source: &dyn MemorySource,
    ) -> bool {
        let arena = first.arena();
        let start = first.index() + length;
        if start + pools > POOLS_PER_ARENA {
            return false;
        }
        let behind = PoolRef::at_index(arena, start);
        let mask = behind.run_mask(pools);
        if arena.free.get() & mask != mask {
            return false;
        }
        self.take_side_by_side(behind, pools, source);
        true
    }

    /// Takes back `pools` pools side by side, which are [split](PoolRef::split); returns whether their arena is wholly
    /// free now.
    pub(crate) fn give_run(&mut self, first: PoolRef, pools: usize) -> bool {
        let arena = first.arena();
        self.unlink(arena);
        arena.free.set(arena.free.get() | first.run_mask(pools));
        self.free_pools += pools;
        for pool in first.run(pools).filter(|pool| pool.has_memory()) {
            arena.dirty.set(arena.dirty.get() | 1 << pool.index());
            self.dirty_pools += 1;
        }
        self.link(arena);
        arena.free.get() == ALL_POOLS
    }

    /// Whether the pools at `first` have memory and would, when free, make the dirty pools too many. Then the caller
    /// purges them first, without the lock; for that, their arena is set to small pages.
    pub(crate) fn is_surplus(&mut self, first: PoolRef, pools: usize, source: &dyn MemorySource) -> bool {
        let has_memory = first.pool().is_touched() || first.is_any_backed(pools);
        let is_surplus = has_memory && self.excess(pools, source) > 0;
        if is_surplus {
            no_longer_huge(&first.arena(), source);
        }
        is_surplus
    }

    /// Notes that the owner of a run gave its memory back to the OS.
    pub(crate) fn note_purged_run(&mut self, first: PoolRef, pools: usize, source: &dyn MemorySource) {
        self.recall.note_purged(pools * PURGE_PARTS, source);
        first.set_backed(pools, false);
        self.bytes_given_back += pools * POOL_BYTES;
    }
}
