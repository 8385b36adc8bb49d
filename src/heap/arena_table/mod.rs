//! All mapped arenas, ordered by the number of their free pools; under the heap's lock.
//!
//! A pool is taken from the fullest arena that has a free one, so that the emptiest arenas drain and can go back to the
//! OS. This is CPython's rule; its `nfp2lasta` is replaced by one list for each number of free pools.
//!
//! # Invariants
//! - *Bucket*: an arena with `n` free pools is in list `n`, and in no other.
//! - *Non-empty*: bit `n - 1` of `with_free` is set if and only if list `n` (`n ≥ 1`) is not empty.

mod purging;
mod recall;
mod runs;

use core::iter::successors;
use core::ptr::NonNull;

use crate::base::config::{
    ARENA_BYTES, DIRTY_POOLS_MIN, DIRTY_POOLS_SHARE, EMPTY_ARENAS_MIN, EMPTY_ARENAS_SHARE, POOL_BYTES, POOLS_PER_ARENA,
    PURGE_PARTS,
};
use crate::base::kind::Kind;
use crate::heap::arena::{ALL_POOLS, ArenaRef, PoolRef};
use crate::heap::purge_batch::PurgeBatch;
use crate::os::MemorySource;
use recall::Recall;

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
    /// Pools that were purged too early.
    recall: Recall,
    /// Dirty pools that were too many, and could not be purged when it was tried last.
    stuck: usize,
    counts: ArenaCounts,
    bytes_given_back: usize,
    /// The ranges being purged; empty except inside the methods (*Empty* in `purge_batch`).
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
            recall: Recall::new(),
            stuck: 0,
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

    /// Takes the lowest free pool of the fullest arena that has one, for blocks of kind `K`; the caller owns it then.
    #[cfg_attr(target_os = "linux", unsafe(link_section = ".text_pymalloc"))]
    pub(crate) fn take_pool<K: Kind>(&mut self, source: &dyn MemorySource) -> Option<PoolRef> {
        if self.with_free == 0 {
            return None;
        }
        let free = self.with_free.trailing_zeros() as usize + 1;
        let arena = (*self.lists.get(free)?)?;
        let index = arena.free.get().trailing_zeros() as usize;
        let pool = self.take_from(arena, index);
        if K::IS_SMALL {
            self.recall.note_other(pool);
        } else if self.recall.note_taken(pool, 1, self.pools_in_use(), source) {
            self.purge_excess(source);
        }
        Some(pool)
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
    pub(crate) fn take_committed<K: Kind>(&mut self, source: &dyn MemorySource) -> Option<PoolRef> {
        let is_whole = |pool: &PoolRef| pool.has_memory() && pool.pool().purged() == 0;
        let pool = self.take_pool::<K>(source)?;
        if is_whole(&pool) || commit_pools(pool, 1, source) {
            return Some(pool);
        }
        self.put_back(pool);
        let is_free = |pool: &PoolRef| pool.arena().free.get() >> pool.index() & 1 == 1;
        let pool = self.iter().flat_map(ArenaRef::pools).find(|pool| is_free(pool) && is_whole(pool))?;
        Some(self.take_from(pool.arena(), pool.index()))
    }

    /// Makes a pool free, owned by no set.
    #[inline(always)]
    fn put_back(&mut self, pool: PoolRef) {
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
    }

    /// Forgets what was purged, and what that taught: the program asked for the purge.
    pub(crate) fn forget_purges(&mut self) {
        self.recall.forget();
    }

    /// Notes that an arena is mapped for medium blocks whose memory comes at once, with a huge page.
    pub(crate) fn note_huge(&mut self, source: &dyn MemorySource) {
        self.recall.note_huge(source);
    }

    /// The number of pools that may keep their memory beyond the bound.
    fn allowance(&mut self, source: &dyn MemorySource) -> usize {
        self.recall.allowance(self.pools_in_use(), source)
    }

    /// The number of pools whose memory medium blocks wanted again soon after it went back, of late.
    pub(crate) fn recalled(&mut self, source: &dyn MemorySource) -> usize {
        self.recall.earned(source)
    }

    /// How many of the dirty pools would be too many if there were `more` of them.
    fn excess(&mut self, more: usize, source: &dyn MemorySource) -> usize {
        let bound = DIRTY_POOLS_MIN.max(self.pools_in_use() / DIRTY_POOLS_SHARE);
        let excess = (self.dirty_pools + more).saturating_sub(bound);
        if excess == 0 { 0 } else { excess.saturating_sub(self.allowance(source)) }
    }

    /// Takes back pools whose blocks are all home; returns whether the arena of any is wholly free now.
    #[cfg_attr(target_os = "linux", unsafe(link_section = ".text_pymalloc"))]
    pub(crate) fn give_pools(&mut self, pools: impl Iterator<Item = PoolRef>) -> bool {
        let mut any_free = false;
        for pool in pools {
            self.put_back(pool);
            any_free |= pool.arena().free.get() == ALL_POOLS;
        }
        any_free
    }

    /// A wholly free arena, if more of them are mapped than may stay.
    pub(crate) fn surplus_arena(&mut self, source: &dyn MemorySource) -> Option<ArenaRef> {
        let in_use = self.counts.mapped - self.empty;
        let keep = EMPTY_ARENAS_MIN.max(in_use / EMPTY_ARENAS_SHARE);
        if self.empty > keep && self.empty > keep + self.allowance(source) / POOLS_PER_ARENA {
            self.empty_arena()
        } else {
            None
        }
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
    pub(crate) fn remove(&mut self, arena: ArenaRef, source: &dyn MemorySource) {
        self.unlink(arena);
        let dirty = arena.dirty.get().count_ones() as usize;
        self.recall.note_purged(dirty * PURGE_PARTS, source);
        self.dirty_pools -= dirty;
        self.free_pools -= POOLS_PER_ARENA;
        self.counts.mapped -= 1;
        self.counts.returned += 1;
        self.bytes_given_back += ARENA_BYTES;
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
