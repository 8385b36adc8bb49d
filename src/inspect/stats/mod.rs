//! What the heap holds, derived by walking it: nothing is counted on the fast path.
//!
//! # What is exact
//! While the walk lasts, no thread is on a slow path, but fast paths run on: blocks move between magazines and the
//! program. So what is *outside* of pools is exact, and so is everything inside them; how the outside divides into
//! magazines and program is a snapshot, exact for threads that do nothing meanwhile.
//!
//! # The identity
//! A class's blocks in the program's hands are its pools' counts of blocks outside, less what the magazines hold. What
//! is free is counted by the bitmaps' bits. The two are kept by different code, and `live + cached + remote + free +
//! uncarved = pools × blocks of a pool` holds only if both are right: the self-check insists on it.

mod caches;
mod display;
#[cfg(feature = "serde")]
pub(crate) mod serial;

use core::ptr::NonNull;

use crate::base::config::{ARENA_BYTES, CLASS_COUNT, MEDIUM_CLASS_COUNT, POOL_BYTES, POOLS_PER_ARENA, PURGE_PARTS};
use crate::base::size_class::{AnyClass, MediumClass, SizeClass};
use crate::cache::{GLOBAL, ThreadCache};
use crate::heap::Stopped;
use crate::heap::arena::PoolRef;
use crate::heap::arena_table::ArenaTable;
use crate::heap::door::Door;
use crate::heap::pool::State;
use crate::os::{MemorySource, SystemMalloc, SystemMemory, system_malloc};

pub(crate) use caches::gather_caches;
pub use caches::{CacheStats, CacheUse};

/// Counts of one size class.
///
/// Each block of the class's pools is in exactly one of the five counts of blocks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct ClassStats {
    /// Bytes of one block.
    pub block_bytes: usize,
    /// Pools that hold blocks of this class; one for blocks of more than 4 KiB is eight of the arena's.
    pub pools: usize,
    /// Blocks in the program's hands.
    pub blocks_live: usize,
    /// Free blocks in thread caches (magazines).
    pub blocks_cached: usize,
    /// Free blocks that other threads gave back and their pool's owner has not collected yet.
    pub blocks_remote: usize,
    /// Free blocks in pools, whose memory was used before (by blocks of this class or of another).
    pub blocks_free: usize,
    /// Free blocks in pools, whose memory was never used since it was mapped or purged.
    pub blocks_uncarved: usize,
}

impl ClassStats {
    const ZERO: Self = Self {
        block_bytes: 0,
        pools: 0,
        blocks_live: 0,
        blocks_cached: 0,
        blocks_remote: 0,
        blocks_free: 0,
        blocks_uncarved: 0,
    };

    /// All blocks of the class's pools.
    pub fn blocks(&self) -> usize {
        self.blocks_live + self.blocks_available()
    }

    /// The blocks that are not in the program's hands, wherever they are.
    pub fn blocks_available(&self) -> usize {
        self.blocks_cached + self.blocks_remote + self.blocks_free + self.blocks_uncarved
    }
}

/// Where the bytes are, by [`stats`](crate::stats()).
///
/// The parts of the arenas add up: [`sum`](Self::sum) is [`arenas`](Self::arenas).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct ByteStats {
    /// Bytes of all mapped arenas.
    pub arenas: usize,
    /// Of these: blocks in the program's hands, each rounded up to its class.
    pub live: usize,
    /// Of these: free blocks in thread caches.
    pub cached: usize,
    /// Of these: free blocks that other threads gave back and were not collected yet.
    pub remote: usize,
    /// Of these: free blocks in pools in use, whose memory was used before.
    pub free: usize,
    /// Of these: free blocks in pools in use, whose memory was never used.
    pub uncarved: usize,
    /// Of these: the ends of pools in use into which no block fits (CPython's "quantization").
    pub tails: usize,
    /// Of these: runs of pools, each one block of more than 32 KiB in the program's hands, of the large allocator
    /// [`Medium`](crate::Medium).
    #[cfg_attr(feature = "serde", serde(default))]
    pub runs: usize,
    /// Of these: empty pools that threads keep for their next need.
    pub empty_pools: usize,
    /// Of these: pools that no thread owns.
    pub unused_pools: usize,
    /// Bytes of arenas that take no memory, as far as the allocator knows: never touched since they were mapped or
    /// purged. They are in `free`, `uncarved`, `tails`, `empty_pools` and `unused_pools`, too, so not a part of the
    /// sum. What has memory is in `resident`.
    pub untouched: usize,
    /// Bytes of arenas that have memory now, as the OS says: it was asked. `None` where it does not tell, and from
    /// [`self_check`](crate::self_check()). It may be less than `arenas` − `untouched`, where the OS has swapped some out.
    pub resident: Option<usize>,
    /// Bytes of arenas that are committed, as the OS says: they count against what the system has, touched or not. `None`
    /// where memory needs no promise (other systems than Windows), and from [`self_check`](crate::self_check()).
    pub committed: Option<usize>,
    /// Bytes mapped for the allocator's own data, beside the arenas: address space, touched as needed.
    pub metadata: usize,
    /// Bytes given back to the OS since the start, whether unmapped or purged.
    pub returned: usize,
}

impl ByteStats {
    /// The sum of the parts of the arenas.
    pub fn sum(&self) -> usize {
        let in_blocks = self.live + self.cached + self.remote + self.free + self.uncarved;
        in_blocks + self.runs + self.tails + self.empty_pools + self.unused_pools
    }
}

/// Counts of the whole heap, by [`stats`](crate::stats()) and [`self_check`](crate::self_check).
///
/// Its `Display` is a table in the layout of CPython's `sys._debugmallocstats()`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Stats {
    /// One entry a class, smallest blocks first.
    #[cfg_attr(feature = "serde", serde(with = "serial"))]
    pub classes: [ClassStats; CLASS_COUNT],
    /// One entry a medium class, smallest blocks first; all zero without the large allocator [`Medium`](crate::Medium).
    #[cfg_attr(feature = "serde", serde(with = "serial"))]
    pub medium: [ClassStats; MEDIUM_CLASS_COUNT],
    /// Runs of pools in the program's hands: blocks of more than 32 KiB, of the large allocator
    /// [`Medium`](crate::Medium).
    pub runs_live: usize,
    /// Arenas mapped now.
    pub arenas_mapped: usize,
    /// Arenas ever mapped.
    pub arenas_ever: usize,
    /// Most arenas mapped at one time.
    pub arenas_peak: usize,
    /// Arenas given back to the OS.
    pub arenas_returned: usize,
    /// Pools of mapped arenas that no thread owns.
    pub pools_unused: usize,
    /// Of these: pools that take no memory, because they were never touched since they were mapped or purged.
    pub pools_untouched: usize,
    /// Empty pools that threads keep for their next need.
    pub pools_empty: usize,
    /// Thread caches in use by a thread.
    pub caches_live: usize,
    /// Thread caches of ended threads, waiting to be adopted.
    pub caches_parked: usize,
    /// Where the bytes are.
    pub bytes: ByteStats,
    /// What the C library's `malloc` holds, if it tells: the large requests, if the large allocator is `System`, and
    /// what C code of the program allocated. Always `None` from [`self_check`](crate::self_check).
    pub system: Option<SystemMalloc>,
}

impl Stats {
    /// Of no heap.
    pub(crate) const ZERO: Self = Self {
        classes: [ClassStats::ZERO; CLASS_COUNT],
        medium: [ClassStats::ZERO; MEDIUM_CLASS_COUNT],
        runs_live: 0,
        arenas_mapped: 0,
        arenas_ever: 0,
        arenas_peak: 0,
        arenas_returned: 0,
        pools_unused: 0,
        pools_untouched: 0,
        pools_empty: 0,
        caches_live: 0,
        caches_parked: 0,
        bytes: ByteStats {
            arenas: 0,
            live: 0,
            cached: 0,
            remote: 0,
            free: 0,
            uncarved: 0,
            tails: 0,
            runs: 0,
            empty_pools: 0,
            unused_pools: 0,
            untouched: 0,
            resident: None,
            committed: None,
            metadata: 0,
            returned: 0,
        },
        system: None,
    };

    /// Blocks in the program's hands, of all classes, and runs.
    pub fn blocks_live(&self) -> usize {
        self.classes.iter().chain(&self.medium).map(|class| class.blocks_live).sum::<usize>() + self.runs_live
    }

    /// Bytes of the blocks in the program's hands, each rounded up to its class, and of runs.
    pub fn bytes_live(&self) -> usize {
        self.bytes.live + self.bytes.runs
    }

    /// The counts of a class of either kind.
    fn of_class_mut(&mut self, class: AnyClass) -> Option<&mut ClassStats> {
        match class.index().checked_sub(CLASS_COUNT) {
            None => self.classes.get_mut(class.index()),
            Some(number) => self.medium.get_mut(number),
        }
    }

    /// Counts the heap; the system's share is left out.
    pub(crate) fn gather(stopped: &mut Stopped<'_>) -> Self {
        let mut stats = Self::ZERO;
        stats.add(stopped);
        stats
    }

    /// [`gather`](Self::gather) into counts that are zero so far.
    pub(crate) fn add(&mut self, stopped: &mut Stopped<'_>) {
        stopped.with_state(|state| {
            let counts = state.arenas.counts();
            self.arenas_mapped = counts.mapped;
            self.arenas_ever = counts.ever;
            self.arenas_peak = counts.peak;
            self.arenas_returned = counts.returned;
            self.bytes.metadata = state.metadata.mapped_bytes();
            self.bytes.returned = state.arenas.bytes_given_back();
            for arena in state.arenas.iter() {
                for index in 0..POOLS_PER_ARENA {
                    self.count_pool(PoolRef::at_index(arena, index));
                }
            }
        });
        self.caches_parked = stopped.heap().bare_count();
        for_each_cache(stopped, |cache, door| self.count_cache(cache, door));
        for (class, entry) in AnyClass::all().zip(self.classes.iter_mut().chain(&mut self.medium)) {
            entry.settle(class);
            self.bytes.count_class(class, entry);
        }
        self.bytes.arenas = self.arenas_mapped * ARENA_BYTES;
        self.bytes.empty_pools = self.pools_empty * POOL_BYTES;
        self.bytes.unused_pools = self.pools_unused * POOL_BYTES;
    }

    /// Counts a pool. Of a class, `blocks_live` is what is outside until the class is settled.
    fn count_pool(&mut self, place: PoolRef) {
        let pool = place.pool();
        self.bytes.untouched += untouched_bytes(place);
        match pool.state() {
            State::Unused => {
                self.pools_unused += 1;
                self.pools_untouched += usize::from(!place.has_memory());
            }
            State::Empty => self.pools_empty += 1,
            State::Run => {
                self.runs_live += 1;
                self.bytes.runs += pool.used() as usize * POOL_BYTES;
            }
            // Counted with the first.
            State::Behind => {}
            State::Partial | State::Full => {
                let Some(entry) = self.of_class_mut(pool.any_class()) else {
                    return;
                };
                let uncarved = pool.uncarved_blocks();
                entry.pools += 1;
                entry.blocks_uncarved += uncarved;
                entry.blocks_free += pool.free_blocks().saturating_sub(uncarved);
                entry.blocks_live += outside_blocks(place);
                entry.blocks_remote += place.remote_blocks(pool.any_class());
            }
        }
    }

    fn count_cache(&mut self, cache: &ThreadCache, door: Door<'_>) {
        if cache.set.is_parked() {
            self.caches_parked += 1;
        } else {
            self.caches_live += 1;
        }
        for (class, entry) in SizeClass::all().zip(&mut self.classes) {
            entry.blocks_cached += cache.all_blocks(class, door).count();
        }
        for (class, entry) in MediumClass::all().zip(&mut self.medium) {
            entry.blocks_cached += cache.all_blocks(class, door).count();
        }
    }
}

impl Default for Stats {
    /// Of no heap: all counts are 0.
    fn default() -> Self {
        Self::ZERO
    }
}

impl ClassStats {
    /// Divides what is outside into magazines and program.
    fn settle(&mut self, class: AnyClass) {
        self.block_bytes = class.block_bytes();
        // A block that went from one thread's magazine to another's meanwhile was seen twice.
        self.blocks_cached = self.blocks_cached.min(self.blocks_live);
        self.blocks_live -= self.blocks_cached;
    }
}

impl ByteStats {
    fn count_class(&mut self, class: AnyClass, entry: &ClassStats) {
        self.live += entry.blocks_live * entry.block_bytes;
        self.cached += entry.blocks_cached * entry.block_bytes;
        self.remote += entry.blocks_remote * entry.block_bytes;
        self.free += entry.blocks_free * entry.block_bytes;
        self.uncarved += entry.blocks_uncarved * entry.block_bytes;
        self.tails += entry.pools * (class.pool_bytes() - class.pool_blocks() * class.block_bytes());
    }
}

/// Blocks of a pool that are with the program or in magazines: from its counts, not its bits.
pub(crate) fn outside_blocks(place: PoolRef) -> usize {
    let outstanding = place.remote().outstanding();
    place.pool().used().saturating_sub(outstanding) as usize
}

/// Bytes of a pool, whatever its state, that have had no memory since they were mapped or purged, as far as is known.
/// Of several that are one, all are counted with the first.
pub(crate) fn untouched_bytes(place: PoolRef) -> usize {
    let pool = place.pool();
    let pools = match pool.state() {
        State::Run | State::Behind => return 0,
        State::Unused => 1,
        State::Empty | State::Partial | State::Full => pool.any_class().pool_pools(),
    };
    let unit_bytes = pools * POOL_BYTES / PURGE_PARTS;
    let touched = if place.is_any_backed(pools) { PURGE_PARTS } else { pool.touched_bytes().div_ceil(unit_bytes) };
    let parts = (0..PURGE_PARTS).filter(|&part| part >= touched || pool.purged() >> part & 1 == 1);
    parts.count() * unit_bytes
}

/// Shows each thread cache to `body`, except those of bare sets, which have nothing.
pub(crate) fn for_each_cache(stopped: &Stopped<'_>, mut body: impl FnMut(&ThreadCache, Door<'_>)) {
    let heap = stopped.heap();
    for set in heap.sets() {
        // SAFETY: a registered set.
        if let Some(cache) = unsafe { ThreadCache::of_set(heap, set) } {
            // SAFETY: caches are never unmapped.
            body(unsafe { cache.as_ref() }, stopped.door());
        }
    }
}

/// Counts the program's heap into counts that are zero so far, the system's share included.
pub(crate) fn add_stats(stats: &mut Stats) {
    let mut stopped = GLOBAL.stop();
    stats.add(&mut stopped);
    stopped.with_state(|state| {
        stats.bytes.resident = told(&state.arenas, |start, bytes| SystemMemory.resident_bytes(start, bytes));
        stats.bytes.committed = told(&state.arenas, |start, bytes| SystemMemory.committed_bytes(start, bytes));
    });
    drop(stopped);
    // Its lock is not one of ours: asked when none of ours is held.
    stats.system = system_malloc();
}

/// Bytes of all arenas, of each of which the OS is asked; `None` if it does not tell.
fn told(arenas: &ArenaTable, ask: impl Fn(NonNull<u8>, usize) -> Option<usize>) -> Option<usize> {
    arenas.iter().map(|arena| ask(NonNull::new(arena.start())?, ARENA_BYTES)).sum()
}

/// Blocks in the program's hands: the pools' counts less the magazines'; and runs.
pub(crate) fn live_blocks(stopped: &mut Stopped<'_>) -> usize {
    let mut outside = [0_usize; CLASS_COUNT + MEDIUM_CLASS_COUNT];
    let mut runs = 0;
    stopped.with_state(|state| {
        for place in state.arenas.iter().flat_map(|arena| arena.pools()) {
            let pool = place.pool();
            match (pool.state(), outside.get_mut(pool.any_class().index())) {
                (State::Partial | State::Full, Some(count)) => *count += outside_blocks(place),
                (State::Run, _) => runs += 1,
                _ => {}
            }
        }
    });
    for_each_cache(stopped, |cache, door| {
        let small = SizeClass::all().map(|class| cache.all_blocks(class, door).count());
        let medium = MediumClass::all().map(|class| cache.all_blocks(class, door).count());
        for (count, cached) in outside.iter_mut().zip(small.chain(medium)) {
            *count = count.saturating_sub(cached);
        }
    });
    outside.iter().sum::<usize>() + runs
}
