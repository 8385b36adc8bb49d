//! Statistics of single thread caches: how many pools and free blocks each holds.

use crate::base::kind::Kind;
use crate::base::size_class::{Class, MediumClass, SizeClass};
use crate::cache::{ThreadCache, current};
use crate::heap::Stopped;
use crate::heap::door::Door;

/// The user of a thread cache: a thread, nobody, or all threads without a cache of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum CacheUse {
    /// The thread that called [`thread_caches`](crate::thread_caches).
    Caller,
    /// Another thread.
    Thread,
    /// Nobody: its thread ended. The next thread that starts adopts it.
    Parked,
    /// All threads that have no cache of their own, at their very start and after their end. They share the spare set,
    /// which has pools, but no magazines.
    Spare,
}

/// Statistics of one thread cache, from [`thread_caches`](crate::thread_caches).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct CacheStats {
    /// The user of the cache.
    pub used_by: CacheUse,
    /// The kernel's number of the thread that uses it (that of `gettid`, `top -H` and debuggers); `None` if no thread
    /// does.
    pub thread: Option<u32>,
    /// Free blocks in its magazines.
    pub blocks_cached: usize,
    /// Bytes of these blocks.
    pub bytes_cached: usize,
    /// Slots of its magazines: the most blocks that they can hold at their present sizes.
    pub slots: usize,
    /// Pools that it owns, empty ones included.
    pub pools_owned: usize,
    /// Empty pools that it keeps for its next need.
    pub pools_empty: usize,
    /// Bytes of its pools' blocks that are not free in their pool: the program has them, they are in the cache of some
    /// thread, or they were freed by other threads and not collected yet.
    pub bytes_used: usize,
}

/// Counts each cache whose set is not bare into `found`, as far as its capacity goes. Returns the number of such
/// caches.
pub(crate) fn gather_caches(stopped: &mut Stopped<'_>, found: &mut Vec<CacheStats>) -> usize {
    let heap = stopped.heap();
    let mut count = 0;
    for set in heap.sets() {
        count += 1;
        // `found` must not grow: nothing can be allocated while the slow paths are stopped.
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
