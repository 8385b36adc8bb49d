//! Statistics of the heap, gathered by a walk: nothing is counted on the fast path.
//!
//! # What is exact
//! During the walk no thread is on a slow path, but fast paths run on: they move blocks between magazines and the
//! program. So the number of blocks *outside* of their pools is exact, and so are all counts inside pools. How the
//! blocks outside divide into those in magazines and those that the program has is a snapshot; it is exact for threads
//! that do nothing meanwhile.
//!
//! # The identity
//! The program's blocks of a class are counted as the blocks outside (the pools count them), less the blocks in
//! magazines. Free blocks are counted by the bitmaps' bits. Different code maintains the two, and `live + cached +
//! remote + free + uncarved = pools × blocks of a pool` holds only if both are right. The self-check checks it.

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

/// Statistics of one size class.
///
/// Each block of the class's pools is in exactly one of the five counts of blocks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct ClassStats {
    /// Bytes of one block.
    pub block_bytes: usize,
    /// Pools that hold blocks of this class. A pool for blocks of more than 4 KiB consists of eight of the arena's
    /// pools.
    pub pools: usize,
    /// Blocks that the program has.
    pub blocks_live: usize,
    /// Free blocks in thread caches (magazines).
    pub blocks_cached: usize,
    /// Free blocks that other threads freed and their pool's owner has not collected yet.
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

    /// The number of all blocks of the class's pools: the sum of the five counts.
    pub fn blocks(&self) -> usize {
        self.blocks_live + self.blocks_available()
    }

    /// The number of blocks that the program does not have: all but the live ones.
    pub fn blocks_available(&self) -> usize {
        self.blocks_cached + self.blocks_remote + self.blocks_free + self.blocks_uncarved
    }
}

/// What the heap's bytes are used for, from [`stats`](crate::stats()).
///
/// The parts of the arenas add up: [`sum`](Self::sum) is [`arenas`](Self::arenas).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct ByteStats {
    /// Bytes of all mapped arenas.
    pub arenas: usize,
    /// Of these: blocks that the program has, each rounded up to its class.
    pub live: usize,
    /// Of these: free blocks in thread caches.
    pub cached: usize,
    /// Of these: free blocks that other threads freed and their pool's owner has not collected yet.
    pub remote: usize,
    /// Of these: free blocks in pools in use, whose memory was used before.
    pub free: usize,
    /// Of these: free blocks in pools in use, whose memory was never used.
    pub uncarved: usize,
    /// Of these: ends of pools in use that are too small for a block (CPython's "quantization").
    pub tails: usize,
    /// Of these: runs of pools. Each is one block of more than 32 KiB that the program has from the large allocator
    /// [`Medium`](crate::Medium).
    #[cfg_attr(feature = "serde", serde(default))]
    pub runs: usize,
    /// Of these: empty pools that threads keep for their next need.
    pub empty_pools: usize,
    /// Of these: pools that no thread owns.
    pub unused_pools: usize,
    /// Bytes of arenas without memory, as far as the allocator knows: never touched since they were mapped or purged.
    /// `free`, `uncarved`, `tails`, `empty_pools` and `unused_pools` contain them, so they are not a part of the sum.
    /// For the bytes with memory, see `resident`.
    pub untouched: usize,
    /// Bytes of arenas that have memory now, as the OS reports when asked. `None` if the OS does not report it, and
    /// always from [`self_check`](crate::self_check()). It may be less than `arenas` − `untouched` if the OS has
    /// swapped some out.
    pub resident: Option<usize>,
    /// Bytes of arenas that are committed, as the OS reports: they count against the system's memory, touched or not.
    /// `None` on systems other than Windows, where memory is not committed, and from
    /// [`self_check`](crate::self_check()).
    pub committed: Option<usize>,
    /// Bytes mapped for the allocator's own data, apart from the arenas. It is address space, touched as needed.
    pub metadata: usize,
    /// Bytes given back to the OS since the start, unmapped or purged.
    pub returned: usize,
}

impl ByteStats {
    /// The sum of the parts of the arenas.
    pub fn sum(&self) -> usize {
        let in_blocks = self.live + self.cached + self.remote + self.free + self.uncarved;
        in_blocks + self.runs + self.tails + self.empty_pools + self.unused_pools
    }
}

/// Statistics of the whole heap, from [`stats`](crate::stats()) and [`self_check`](crate::self_check).
///
/// Its `Display` is a table in the layout of CPython's `sys._debugmallocstats()`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Stats {
    /// One entry per class, smallest blocks first.
    #[cfg_attr(feature = "serde", serde(with = "serial"))]
    pub classes: [ClassStats; CLASS_COUNT],
    /// One entry per medium class, smallest blocks first; all zero without the large allocator
    /// [`Medium`](crate::Medium).
    #[cfg_attr(feature = "serde", serde(with = "serial"))]
    pub medium: [ClassStats; MEDIUM_CLASS_COUNT],
    /// Runs of pools that the program has: blocks of more than 32 KiB from the large allocator
    /// [`Medium`](crate::Medium).
    pub runs_live: usize,
    /// Arenas mapped now.
    pub arenas_mapped: usize,
    /// Arenas mapped since the start, those given back included.
    pub arenas_ever: usize,
    /// Most arenas mapped at one time.
    pub arenas_peak: usize,
    /// Arenas given back to the OS.
    pub arenas_returned: usize,
    /// Pools of mapped arenas that no thread owns.
    pub pools_unused: usize,
    /// Of these: pools without memory, because they were never touched since they were mapped or purged.
    pub pools_untouched: usize,
    /// Empty pools that threads keep for their next need.
    pub pools_empty: usize,
    /// Thread caches that running threads use.
    pub caches_live: usize,
    /// Parked thread caches: their threads ended, and they wait to be adopted.
    pub caches_parked: usize,
    /// What the heap's bytes are used for.
    pub bytes: ByteStats,
    /// What the C library's `malloc` holds, if it reports it: large requests, if the large allocator is `System`, and
    /// whatever C code of the program allocated. Always `None` from [`self_check`](crate::self_check).
    pub system: Option<SystemMalloc>,
}

impl Stats {
    /// The statistics of an empty heap: all counts are 0.
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

    /// The number of blocks that the program has, of all classes, and of its runs.
    pub fn blocks_live(&self) -> usize {
        self.classes.iter().chain(&self.medium).map(|class| class.blocks_live).sum::<usize>() + self.runs_live
    }

    /// Bytes of the blocks that the program has, each rounded up to its class, and of its runs.
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

    /// Counts the heap, without the system's share.
    pub(crate) fn gather(stopped: &mut Stopped<'_>) -> Self {
        let mut stats = Self::ZERO;
        stats.add(stopped);
        stats
    }

    /// As [`gather`](Self::gather), into counts that are all 0.
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

    /// Counts a pool. Until [`ClassStats::settle`], a class's `blocks_live` is the number of blocks outside.
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
            // Counted with the first pool.
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
    /// The statistics of an empty heap: all counts are 0.
    fn default() -> Self {
        Self::ZERO
    }
}

impl ClassStats {
    /// Divides the blocks outside into those in magazines and those that the program has.
    fn settle(&mut self, class: AnyClass) {
        self.block_bytes = class.block_bytes();
        // A block that moved from one thread's magazine to another's meanwhile may have been counted twice.
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

/// Blocks of a pool that are outside: the program has them, or magazines hold them. From the pool's counts, not its
/// bits.
pub(crate) fn outside_blocks(place: PoolRef) -> usize {
    let outstanding = place.remote().outstanding();
    place.pool().used().saturating_sub(outstanding) as usize
}

/// Bytes of a pool, in any state, that have had no memory since they were mapped or purged, as far as is known. Several
/// pools that make one are all counted with the first.
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

/// Calls `body` with each thread cache, except those of bare sets, which hold nothing.
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

/// Counts the program's heap, with the system's share, into counts that are all 0.
pub(crate) fn add_stats(stats: &mut Stats) {
    let mut stopped = GLOBAL.stop();
    stats.add(&mut stopped);
    stopped.with_state(|state| {
        stats.bytes.resident = told(&state.arenas, |start, bytes| SystemMemory.resident_bytes(start, bytes));
        stats.bytes.committed = told(&state.arenas, |start, bytes| SystemMemory.committed_bytes(start, bytes));
    });
    drop(stopped);
    // The system's `malloc` has a lock of its own, so it is asked while none of ours is held.
    stats.system = system_malloc();
}

/// The sum over all arenas of the bytes that the OS reports when asked; `None` if it does not report them.
fn told(arenas: &ArenaTable, ask: impl Fn(NonNull<u8>, usize) -> Option<usize>) -> Option<usize> {
    arenas.iter().map(|arena| ask(NonNull::new(arena.start())?, ARENA_BYTES)).sum()
}

/// The number of blocks that the program has: the pools' counts of blocks outside, less the blocks in magazines; plus
/// the runs.
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
