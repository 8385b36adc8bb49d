//! What the heap holds, derived by walking it: nothing is counted on the fast path.

use core::fmt;

use crate::arena::PoolRef;
use crate::cache::ThreadCache;
use crate::config::{ARENA_BYTES, CLASS_COUNT, POOL_BYTES, POOLS_PER_ARENA};
use crate::heap::Heap;
use crate::pool::State;
use crate::size_class::SizeClass;

/// Counts of one size class.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClassStats {
    /// Bytes of one block.
    pub block_bytes: usize,
    /// Pools that hold blocks of this class.
    pub pools: usize,
    /// Blocks in the program's hands.
    pub blocks_live: usize,
    /// Free blocks in thread caches (magazines).
    pub blocks_cached: usize,
    /// Free blocks in pools, those never used included.
    pub blocks_free: usize,
    /// Free blocks that other threads gave back and their pool's owner has not collected yet.
    pub blocks_remote: usize,
}

/// Counts of the whole heap, by [`stats`](crate::stats()) and [`self_check`](crate::self_check).
///
/// Its `Display` is a table in the manner of CPython's `sys._debugmallocstats()`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// One entry a class, smallest blocks first.
    pub classes: [ClassStats; CLASS_COUNT],
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
    /// Empty pools that threads keep for their next need.
    pub pools_empty: usize,
    /// Thread caches in use by a thread.
    pub caches_live: usize,
    /// Thread caches of ended threads, waiting to be adopted.
    pub caches_parked: usize,
    /// Bytes mapped for the allocator's own data: address space, touched as needed.
    pub metadata_bytes: usize,
}

impl Stats {
    /// Blocks in the program's hands, of all classes.
    pub fn blocks_live(&self) -> usize {
        self.classes.iter().map(|class| class.blocks_live).sum()
    }

    /// Bytes of the blocks in the program's hands, each rounded up to its class.
    pub fn bytes_live(&self) -> usize {
        self.classes.iter().map(|class| class.blocks_live * class.block_bytes).sum()
    }

    /// Counts the heap. The calling thread has stopped the slow paths.
    ///
    /// # Safety
    /// As for [`Heap::with_stopped_state`].
    pub(crate) unsafe fn gather(heap: &Heap) -> Self {
        let mut stats = Self {
            classes: [ClassStats::default(); CLASS_COUNT],
            arenas_mapped: 0,
            arenas_ever: 0,
            arenas_peak: 0,
            arenas_returned: 0,
            pools_unused: 0,
            pools_empty: 0,
            caches_live: 0,
            caches_parked: 0,
            metadata_bytes: 0,
        };
        for (class, entry) in SizeClass::all().zip(&mut stats.classes) {
            entry.block_bytes = class.block_bytes();
        }
        // SAFETY: the caller's promise is the same.
        unsafe {
            heap.with_stopped_state(|state| {
                let counts = state.arenas.counts();
                stats.arenas_mapped = counts.mapped;
                stats.arenas_ever = counts.ever;
                stats.arenas_peak = counts.peak;
                stats.arenas_returned = counts.returned;
                stats.metadata_bytes = state.metadata.mapped_bytes();
                for arena in state.arenas.iter() {
                    for index in 0..POOLS_PER_ARENA {
                        stats.count_pool(PoolRef::at_index(arena, index));
                    }
                }
            });
        }
        for set in heap.sets() {
            // SAFETY: a registered set.
            let Some(cache) = (unsafe { ThreadCache::of_set(heap, set) }) else {
                continue;
            };
            // SAFETY: caches are never unmapped.
            stats.count_cache(unsafe { cache.as_ref() });
        }
        for class in &mut stats.classes {
            class.blocks_live = class.blocks_live.saturating_sub(class.blocks_cached);
        }
        stats
    }

    fn count_pool(&mut self, place: PoolRef) {
        let pool = place.pool();
        match pool.state() {
            State::Unused => self.pools_unused += 1,
            State::Empty => self.pools_empty += 1,
            State::Partial | State::Full => {
                let Some(entry) = self.classes.get_mut(pool.class().number()) else {
                    return;
                };
                entry.pools += 1;
                entry.blocks_free += pool.free_blocks();
                // SAFETY: metadata is never unmapped.
                let outstanding = unsafe { place.remote().as_ref() }.outstanding();
                // What is outside; the caches' share is taken off at the end.
                entry.blocks_live += pool.used().saturating_sub(outstanding) as usize;
                entry.blocks_remote += place.remote_blocks(pool.class());
            }
        }
    }

    fn count_cache(&mut self, cache: &ThreadCache) {
        if cache.set.is_parked() {
            self.caches_parked += 1;
        } else {
            self.caches_live += 1;
        }
        for (class, entry) in SizeClass::all().zip(&mut self.classes) {
            entry.blocks_cached += cache.all_blocks(class).count();
        }
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "class   size   num pools   blocks in use   blocks cached   blocks free")?;
        writeln!(f, "-----   ----   ---------   -------------   -------------   -----------")?;
        for (number, class) in self.classes.iter().enumerate().filter(|(_, class)| class.pools > 0) {
            writeln!(
                f,
                "{number:5} {:6} {:11} {:15} {:15} {:13}",
                class.block_bytes,
                class.pools,
                class.blocks_live,
                class.blocks_cached,
                class.blocks_free + class.blocks_remote,
            )?;
        }
        let mut line = |label: &str, value: usize| writeln!(f, "{label:<36}= {value:>14}");
        line("# arenas mapped now", self.arenas_mapped)?;
        line("# arenas ever mapped", self.arenas_ever)?;
        line("# arenas highwater mark", self.arenas_peak)?;
        line("# arenas returned to the OS", self.arenas_returned)?;
        line("# pools unused", self.pools_unused)?;
        line("# pools empty, kept by threads", self.pools_empty)?;
        line("# thread caches in use", self.caches_live)?;
        line("# thread caches parked", self.caches_parked)?;
        line("bytes in live blocks", self.bytes_live())?;
        line("bytes in unused and empty pools", (self.pools_unused + self.pools_empty) * POOL_BYTES)?;
        line("bytes in arenas", self.arenas_mapped * ARENA_BYTES)
    }
}
