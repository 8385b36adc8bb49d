//! Thread caches one by one: who holds pools and free blocks.

use crate::base::kind::Kind;
use crate::base::size_class::{Class, MediumClass, SizeClass};
use crate::cache::{ThreadCache, current};
use crate::heap::Stopped;
use crate::heap::door::Door;

/// Who uses a thread cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum CacheUse {
    /// The thread that asked.
    Caller,
    /// Another thread.
    Thread,
    /// Nobody: its thread ended, and the next one that starts adopts it.
    Parked,
    /// All threads that have no cache, at their very start and after their end. It has pools, but no magazines.
    Spare,
}

/// Counts of one thread cache, by [`thread_caches`](crate::thread_caches).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct CacheStats {
    /// Who uses it.
    pub used_by: CacheUse,
    /// The kernel's number of the thread that uses it (`gettid`, as `top -H` and debuggers show it); `None` if nobody
    /// does.
    pub thread: Option<u32>,
    /// Free blocks in its magazines.
    pub blocks_cached: usize,
    /// Their bytes.
    pub bytes_cached: usize,
    /// Slots of its magazines: the most blocks that they can hold as they are now.
    pub slots: usize,
    /// Pools that it owns, empty ones included.
    pub pools_owned: usize,
    /// Empty pools that it keeps for its next need.
    pub pools_empty: usize,
    /// Bytes of the blocks of its pools that are not home: with the program, in any thread's magazine, or freed by
    /// others and not collected yet.
    pub bytes_used: usize,
}

/// Counts each cache, unless its set is bare, into `found`, as far as its capacity goes. Returns how many there are.
pub(crate) fn gather_caches(stopped: &mut Stopped<'_>, found: &mut Vec<CacheStats>) -> usize {
    let heap = stopped.heap();
    let mut count = 0;
    for set in heap.sets() {
        count += 1;
        // Never grows: no block can be had while the slow paths are stopped.
        if found.len() == found.capacity() {
            continue;
        }
        let mut stats = CacheStats {
            used_by: CacheUse::Spare,
            thread: None,
            blocks_cached: 0,
            bytes_cached: 0,
            slots: 0,
            pools_owned: 0,
            pools_empty: 0,
            bytes_used: 0,
        };
        stopped.with_pools(set, |pools| {
            stats.pools_owned = pools.owned_count();
            stats.pools_empty = pools.empty_count();
            stats.bytes_used = pools.used_bytes();
        });
        // SAFETY: a registered set.
        if let Some(cache) = unsafe { ThreadCache::of_set(heap, set) } {
            // SAFETY: caches are never unmapped.
            stats.count(unsafe { cache.as_ref() }, stopped.door());
        }
        found.push(stats);
    }
    count
}

impl CacheStats {
    fn count(&mut self, cache: &ThreadCache, door: Door<'_>) {
        self.used_by = if core::ptr::eq(cache, current()) {
            CacheUse::Caller
        } else if cache.set.is_parked() {
            CacheUse::Parked
        } else {
            CacheUse::Thread
        };
        self.thread = (self.used_by != CacheUse::Parked).then(|| cache.thread());
        SizeClass::all().for_each(|class| self.count_class(cache, class, door));
        MediumClass::all().for_each(|class| self.count_class(cache, class, door));
    }

    fn count_class<K: Kind>(&mut self, cache: &ThreadCache, class: Class<K>, door: Door<'_>) {
        let blocks = cache.all_blocks(class, door).count();
        self.blocks_cached += blocks;
        self.bytes_cached += blocks * class.block_bytes();
        self.slots += cache.slots(class, door);
    }
}
