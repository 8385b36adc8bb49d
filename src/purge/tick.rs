//! A tick of the purge thread: what it does to the heap, and when it leaves the heap alone.
//!
//! 1. For each pool set whose thread has made no slow call since the last tick: its depots are flushed, its inbox is
//!    collected, and its empty pools are returned, all under the set's door. A thread that only uses its magazines does
//!    not notice.
//! 2. If no pool was taken from the heap since the last tick: those sets are swept, and free memory of the heap beyond
//!    the amount to keep goes back to the OS, one arena's worth at a time, until a thread takes a pool.
//!
//! So a busy program pays, per tick, for one look at each set. Doors and the heap's lock are taken in the documented
//! order, and one door at a time. Nothing here allocates.

use crate::cache::ThreadCache;
use crate::heap::Heap;

/// What the purge thread remembers from tick to tick.
pub(crate) struct Ticker {
    heap: &'static Heap,
    /// Bytes of free memory that stay.
    keep_bytes: usize,
    /// Pools that had been taken from the heap at the last tick.
    taken: u64,
}

impl Ticker {
    pub(crate) fn new(heap: &'static Heap, keep_bytes: usize) -> Self {
        Self { heap, keep_bytes, taken: heap.pools_taken() }
    }

    /// Makes one tick; gives up early when `goes_on` returns `false`.
    pub(crate) fn tick(&mut self, goes_on: impl Fn() -> bool) {
        self.each_cache(&goes_on, ThreadCache::tidy_if_idle);
        self.heap.spare.enter(self.heap, |inside| {
            inside.collect();
            inside.return_empty_pools(0);
        });
        let taken = self.heap.pools_taken();
        if core::mem::replace(&mut self.taken, taken) != taken {
            return;
        }
        self.each_cache(&goes_on, ThreadCache::sweep_if_idle);
        while goes_on() && self.heap.purge_step(self.keep_bytes, taken) {}
    }

    fn each_cache(&self, goes_on: &impl Fn() -> bool, body: impl Fn(&ThreadCache, &Heap)) {
        for set in self.heap.sets().take_while(|_| goes_on()) {
            // SAFETY: a registered set.
            if let Some(cache) = unsafe { ThreadCache::of_set(self.heap, set) } {
                // SAFETY: caches are never unmapped.
                body(unsafe { cache.as_ref() }, self.heap);
            }
        }
    }
}
