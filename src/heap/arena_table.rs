//! All mapped arenas, ordered by the number of their free pools; under the heap's lock.
//!
//! A pool is taken from the fullest arena that has a free one, so that the emptiest arenas drain and can go back to the
//! OS. This is CPython's rule; its `nfp2lasta` is replaced by one list for each number of free pools.
//!
//! # Invariants
//! - *Bucket*: an arena with `n` free pools is in list `n`, and in no other.
//! - *Non-empty*: bit `n - 1` of `with_free` is set if and only if list `n` (`n ≥ 1`) is not empty.

use core::iter::successors;
use core::ptr::NonNull;

use crate::base::config::{
    ARENA_BYTES, DIRTY_PEAK_SHARE, DIRTY_POOLS_MIN, DIRTY_POOLS_SHARE, EMPTY_ARENAS_MIN, EMPTY_ARENAS_SHARE,
    PEAK_DECAY, POOL_BYTES, POOLS_PER_ARENA, RUN_LOOKS,
};
use crate::heap::arena::{ALL_POOLS, Arena, ArenaRef, PoolRef};
use crate::heap::commits;
use crate::heap::purge_batch::{Marked, PurgeBatch};
use crate::os::{MemoryRange, MemorySource};

/// Counts of arenas since the start.
#[derive(Clone, Copy, Default)]
pub(crate) struct ArenaCounts {
    /// Mapped now.
    pub(crate) mapped: usize,
    /// Ever mapped.
    pub(crate) ever: usize,
    /// Most mapped at one time.
    pub(crate) peak: usize,
    /// Given back to the OS.
    pub(crate) returned: usize,
}

/// Pools `first..end` of an arena, as a mask; not empty.
const fn run_mask(first: usize, end: usize) -> u64 {
    (u64::MAX >> (u64::BITS as usize - (end - first))) << first
}

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
fn no_longer_huge(arena: &Arena, source: &dyn MemorySource) {
    if arena.huge.replace(false)
        && let Some(start) = NonNull::new(arena.start())
    {
        // SAFETY: the arena's memory.
        unsafe { source.advise_huge(start, ARENA_BYTES, false) };
    }
}

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

/// Commits `pools` pools side by side, of which some may be committed already; `false` if the OS refuses. The pools are
/// *backed* then: they count as having memory, touched or not.
pub(crate) fn commit_pools(first: PoolRef, pools: usize, source: &dyn MemorySource) -> bool {
    // SAFETY: pools' memory, of whole OS pages where memory has to be committed.
    let committed =
        NonNull::new(first.start()).is_some_and(|start| unsafe { source.commit(start, pools * POOL_BYTES) });
    if committed {
        first.set_backed(pools, true);
        first.pool().remove_purged(u8::MAX);
    }
    committed
}

/// The arenas by their free pools.
pub(crate) struct ArenaTable {
    lists: [Option<ArenaRef>; POOLS_PER_ARENA + 1],
    with_free: u64,
    /// Arenas whose pools are all free.
    empty: usize,
    /// Pools that no set owns.
    free_pools: usize,
    /// Free pools that have memory.
    dirty_pools: usize,
    /// The largest `keep()` since the last purge of many arenas (`purge_if_halved`).
    keep_before: usize,
    /// Most pools in use of late, if the program uses runs; decays as runs are freed.
    recent_peak: usize,
    counts: ArenaCounts,
    bytes_given_back: usize,
    /// The ranges being purged; empty except inside the methods (*Empty*).
    batch: PurgeBatch,
}

// SAFETY: plain pointers to metadata that is never unmapped, touched under the heap's lock.
unsafe impl Send for ArenaTable {}

impl ArenaTable {
    pub(crate) const fn new() -> Self {
        Self {
            lists: [None; POOLS_PER_ARENA + 1],
            with_free: 0,
            empty: 0,
            free_pools: 0,
            dirty_pools: 0,
            keep_before: 0,
            recent_peak: 0,
            counts: ArenaCounts { mapped: 0, ever: 0, peak: 0, returned: 0 },
            bytes_given_back: 0,
            batch: PurgeBatch::new(),
        }
    }

    /// Pools that sets own.
    pub(crate) fn pools_in_use(&self) -> usize {
        self.counts.mapped * POOLS_PER_ARENA - self.free_pools
    }

    pub(crate) fn counts(&self) -> ArenaCounts {
        self.counts
    }

    /// Bytes given back to the OS since the start, whether unmapped or purged.
    pub(crate) fn bytes_given_back(&self) -> usize {
        self.bytes_given_back
    }

    /// Whether a pool can be taken without mapping an arena.
    pub(crate) fn has_free_pool(&self) -> bool {
        self.with_free != 0
    }

    /// All arenas.
    pub(crate) fn iter(&self) -> impl Iterator<Item = ArenaRef> + '_ {
        self.lists.iter().flat_map(|&first| successors(first, |arena| arena.next.get()))
    }

    fn link(&mut self, arena: ArenaRef) {
        let free = arena.free_count();
        let Some(first) = self.lists.get_mut(free) else {
            return;
        };
        arena.previous.set(None);
        arena.next.set(*first);
        if let Some(next) = *first {
            next.previous.set(Some(arena));
        }
        *first = Some(arena);
        if free > 0 {
            self.with_free |= 1 << (free - 1);
        }
        self.empty += usize::from(free == POOLS_PER_ARENA);
    }

    fn unlink(&mut self, arena: ArenaRef) {
        let free = arena.free_count();
        let (previous, next) = (arena.previous.get(), arena.next.get());
        match previous {
            Some(before) => before.next.set(next),
            None => {
                if let Some(first) = self.lists.get_mut(free) {
                    *first = next;
                }
                if next.is_none() && free > 0 {
                    self.with_free &= !(1 << (free - 1));
                }
            }
        }
        if let Some(after) = next {
            after.previous.set(previous);
        }
        self.empty -= usize::from(free == POOLS_PER_ARENA);
    }

    /// Adds a new arena, all of whose pools are free.
    pub(crate) fn add(&mut self, arena: ArenaRef) {
        self.link(arena);
        self.free_pools += POOLS_PER_ARENA;
        self.dirty_pools += arena.dirty.get().count_ones() as usize;
        self.counts.mapped += 1;
        self.counts.ever += 1;
        self.counts.peak = self.counts.peak.max(self.counts.mapped);
    }

    /// Takes the lowest free pool of the fullest arena that has one; the caller owns it then.
    #[cfg_attr(target_os = "linux", unsafe(link_section = ".text_pymalloc"))]
    pub(crate) fn take_pool(&mut self) -> Option<PoolRef> {
        if self.with_free == 0 {
            return None;
        }
        let free = self.with_free.trailing_zeros() as usize + 1;
        let arena = (*self.lists.get(free)?)?;
        let index = arena.free.get().trailing_zeros() as usize;
        Some(self.take_from(arena, index))
    }

    /// Takes a free pool of `arena`.
    #[inline(always)]
    fn take_from(&mut self, arena: ArenaRef, index: usize) -> PoolRef {
        self.unlink(arena);
        let bit = 1_u64 << index;
        arena.free.set(arena.free.get() & !bit);
        self.free_pools -= 1;
        if arena.dirty.get() & bit != 0 {
            arena.dirty.set(arena.dirty.get() & !bit);
            self.dirty_pools -= 1;
        }
        self.link(arena);
        PoolRef::at_index(arena, index)
    }

    /// As [`take_pool`](Self::take_pool), where memory has to be committed: commits the pool's. If the OS refuses,
    /// takes a pool that has all of its memory, if there is one.
    pub(crate) fn take_committed(&mut self, source: &dyn MemorySource) -> Option<PoolRef> {
        let is_whole = |pool: &PoolRef| pool.has_memory() && pool.pool().purged() == 0;
        let pool = self.take_pool()?;
        if is_whole(&pool) || commit_pools(pool, 1, source) {
            return Some(pool);
        }
        self.put_back(pool);
        let is_free = |pool: &PoolRef| pool.arena().free.get() >> pool.index() & 1 == 1;
        let pool = self.iter().flat_map(ArenaRef::pools).find(|pool| is_free(pool) && is_whole(pool))?;
        Some(self.take_from(pool.arena(), pool.index()))
    }

    /// Makes a pool free, owned by no set; returns its bit.
    #[inline(always)]
    fn put_back(&mut self, pool: PoolRef) -> u64 {
        let arena = pool.arena();
        self.unlink(arena);
        let bit = 1_u64 << pool.index();
        arena.free.set(arena.free.get() | bit);
        self.free_pools += 1;
        if pool.has_memory() {
            arena.dirty.set(arena.dirty.get() | bit);
            self.dirty_pools += 1;
        }
        self.link(arena);
        bit
    }

    /// Takes `pools` free pools side by side, the first at a multiple of `align` pools, from the fullest arena that has
    /// them. The caller owns them then. It looks into at most `RUN_LOOKS` arenas; after that it takes an empty one,
    /// which always has them.
    pub(crate) fn take_run(&mut self, pools: usize, align: usize) -> Option<PoolRef> {
        let (arena, index) = self.find_run(pools, align)?;
        let first = PoolRef::at_index(arena, index);
        self.take_side_by_side(first, pools);
        Some(first)
    }

    /// Takes free pools of one arena, `pools` from `first` on.
    fn take_side_by_side(&mut self, first: PoolRef, pools: usize) {
        let arena = first.arena();
        let mask = first.run_mask(pools);
        self.unlink(arena);
        arena.free.set(arena.free.get() & !mask);
        self.free_pools -= pools;
        self.dirty_pools -= (arena.dirty.get() & mask).count_ones() as usize;
        arena.dirty.set(arena.dirty.get() & !mask);
        self.link(arena);
        self.recent_peak = self.recent_peak.max(self.pools_in_use());
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
    pub(crate) fn extend_run(&mut self, first: PoolRef, length: usize, pools: usize) -> bool {
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
        self.take_side_by_side(behind, pools);
        true
    }

    /// Takes back `pools` pools side by side, which are [split](PoolRef::split); returns whether their arena is wholly
    /// free now.
    pub(crate) fn give_run(&mut self, first: PoolRef, pools: usize, source: &dyn MemorySource) -> bool {
        let arena = first.arena();
        self.unlink(arena);
        arena.free.set(arena.free.get() | first.run_mask(pools));
        self.free_pools += pools;
        for pool in first.run(pools).filter(|pool| pool.has_memory()) {
            arena.dirty.set(arena.dirty.get() | 1 << pool.index());
            self.dirty_pools += 1;
        }
        self.link(arena);
        self.recent_peak -= self.recent_peak.saturating_sub(self.pools_in_use()) / PEAK_DECAY;
        if arena.free.get() == ALL_POOLS {
            return true;
        }
        let keep = self.keep();
        if self.dirty_pools > keep {
            self.purge_if_halved(keep, source);
            self.purge_batch(source);
        }
        false
    }

    /// Whether the pools at `first` have memory and would, when free, make the dirty pools too many. Then the caller
    /// purges them first, without the lock; for that, their arena is set to small pages.
    pub(crate) fn is_surplus(&mut self, first: PoolRef, pools: usize, source: &dyn MemorySource) -> bool {
        let has_memory = first.pool().is_touched() || first.is_any_backed(pools);
        let is_surplus = has_memory && self.dirty_pools + pools > self.keep();
        if is_surplus {
            no_longer_huge(&first.arena(), source);
        }
        is_surplus
    }

    /// Notes that the owner of a run gave its memory back to the OS.
    pub(crate) fn note_purged_run(&mut self, first: PoolRef, pools: usize) {
        first.set_backed(pools, false);
        self.bytes_given_back += pools * POOL_BYTES;
    }

    /// The number of dirty pools that may stay.
    fn keep(&self) -> usize {
        DIRTY_POOLS_MIN.max(self.pools_in_use() / DIRTY_POOLS_SHARE).max(self.recent_peak / DIRTY_PEAK_SHARE)
    }

    /// Takes back pools whose blocks are all home; returns whether the arena of any is wholly free now.
    #[cfg_attr(target_os = "linux", unsafe(link_section = ".text_pymalloc"))]
    pub(crate) fn give_pools(&mut self, pools: impl Iterator<Item = PoolRef>, source: &dyn MemorySource) -> bool {
        let mut any_free = false;
        for pool in pools {
            any_free |= self.give_pool(pool, source);
        }
        self.purge_batch(source);
        any_free
    }

    /// Takes back a pool; returns whether its arena is wholly free now.
    fn give_pool(&mut self, pool: PoolRef, source: &dyn MemorySource) -> bool {
        let arena = pool.arena();
        let bit = self.put_back(pool);
        if arena.free.get() == ALL_POOLS {
            return true;
        }
        let keep = self.keep();
        if self.dirty_pools > keep {
            self.mark_pools(arena, bit, source);
            self.purge_if_halved(keep, source);
        }
        false
    }

    /// Purges down to `keep` dirty pools, if `keep` is at most half of what it was: the pools kept while more were in
    /// use are too many by then. It is done so rarely because it looks at every arena.
    fn purge_if_halved(&mut self, keep: usize, source: &dyn MemorySource) {
        if keep <= self.keep_before / 2 {
            self.purge_beyond(keep, usize::MAX, source);
            self.keep_before = keep;
        }
        self.keep_before = self.keep_before.max(keep);
    }

    /// A wholly free arena, if more of them are mapped than may stay.
    pub(crate) fn surplus_arena(&self) -> Option<ArenaRef> {
        let in_use = self.counts.mapped - self.empty;
        if self.empty > EMPTY_ARENAS_MIN.max(in_use / EMPTY_ARENAS_SHARE) { self.empty_arena() } else { None }
    }

    /// Marks the dirty pools of `mask` as purged, as far as they are whole OS pages, and puts them into the batch.
    fn mark_pools(&mut self, arena: ArenaRef, mask: u64, source: &dyn MemorySource) {
        let mut rest = purgeable(&arena, mask, source.page_bytes().div_ceil(POOL_BYTES));
        while rest != 0 {
            // A run of neighbours is one range.
            let first = rest.trailing_zeros() as usize;
            let end = first + (rest >> first).trailing_ones() as usize;
            let run = run_mask(first, end);
            rest &= !run;
            let start = arena.start().wrapping_add(first * POOL_BYTES);
            let bytes = (end - first) * POOL_BYTES;
            no_longer_huge(&arena, source);
            for index in first..end {
                let pool = PoolRef::at_index(arena, index).pool();
                // Parts that have to be committed stay noted, in case the OS refuses.
                pool.set_untouched(if commits(source) { pool.purged() } else { 0 });
            }
            arena.backed.set(arena.backed.get() & !run);
            self.dirty_pools -= (arena.dirty.get() & run).count_ones() as usize;
            arena.dirty.set(arena.dirty.get() & !run);
            self.mark(MemoryRange { start, bytes }, Marked { arena, pools: run, parts: 0 }, source);
        }
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
    fn purge_batch(&mut self, source: &dyn MemorySource) {
        // SAFETY: arenas' memory, in pools that no set owns, or in parts that their owner gives.
        while let Some((range, marked)) = unsafe { self.batch.purge(source) } {
            self.unmark(range, marked);
        }
    }

    /// Undoes the mark of a range that the OS refused to purge.
    fn unmark(&mut self, range: MemoryRange, marked: Marked) {
        self.bytes_given_back -= range.bytes;
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
        let mut arenas = 0;
        for free in (1..=POOLS_PER_ARENA).rev() {
            let mut next = self.lists[free];
            while let Some(arena) = next {
                let before = self.dirty_pools;
                if arenas == arenas_max || before <= keep {
                    return arenas > 0;
                }
                if arena.dirty.get() != 0 {
                    // Purging moves no arena between the lists.
                    self.mark_pools(arena, highest_bits(arena.dirty.get(), before - keep), source);
                    self.purge_batch(source);
                    arenas += usize::from(self.dirty_pools < before);
                }
                next = arena.next.get();
            }
        }
        arenas > 0
    }

    /// Arenas whose pools are all free.
    pub(crate) fn empty_count(&self) -> usize {
        self.empty
    }

    /// A wholly free arena, if there is one.
    pub(crate) fn empty_arena(&self) -> Option<ArenaRef> {
        self.lists[POOLS_PER_ARENA]
    }

    /// Takes a wholly free arena, whose memory was given back to the OS, out of the table.
    pub(crate) fn remove(&mut self, arena: ArenaRef) {
        self.unlink(arena);
        self.dirty_pools -= arena.dirty.get().count_ones() as usize;
        self.free_pools -= POOLS_PER_ARENA;
        self.counts.mapped -= 1;
        self.counts.returned += 1;
        self.bytes_given_back += ARENA_BYTES;
    }

    /// Purges the free pools of one arena.
    pub(crate) fn purge_arena(&mut self, arena: ArenaRef, source: &dyn MemorySource) {
        self.mark_pools(arena, ALL_POOLS, source);
        self.purge_batch(source);
    }
}

// --- For the self-check ----------------------------------------------------------------------------------------

impl ArenaTable {
    /// Checks that every arena is in the list of its free pools, and that the sums are right.
    pub(crate) fn check_lists(&self) -> Result<(), &'static str> {
        let (mut mapped, mut free_pools, mut dirty_pools) = (0, 0, 0);
        for (free, &first) in self.lists.iter().enumerate() {
            let listed = free == 0 || (self.with_free >> (free - 1) & 1 == 1) == first.is_some();
            if !listed {
                return Err("the summary of arenas with free pools is wrong");
            }
            let mut previous = None;
            for arena in successors(first, |arena| arena.next.get()) {
                if arena.free_count() != free {
                    return Err("an arena is in the list of another number of free pools");
                }
                if arena.previous.get() != previous {
                    return Err("a list of arenas is broken");
                }
                mapped += 1;
                free_pools += free;
                dirty_pools += arena.dirty.get().count_ones() as usize;
                previous = Some(arena);
            }
        }
        if (mapped, free_pools, dirty_pools) != (self.counts.mapped, self.free_pools, self.dirty_pools) {
            return Err("arenas or their free pools are miscounted");
        }
        Ok(())
    }
}
