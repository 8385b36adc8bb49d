//! A pool's way through a set: opened for a class, full and partial in turn, empty, and back to its arena.

use core::ptr;

use super::Inside;
use crate::base::config::{
    DENSE_FREE_SHARE, DENSE_POOLS_MIN, FAULT_IN_FROM_POOLS, POOL_BYTES, SET_EMPTY_POOLS_MAX, SWEEP_AGAIN,
};
use crate::base::fatal::{Impossible, impossible};
use crate::base::kind::{Kind, Medium, Small};
use crate::base::size_class::Class;
use crate::heap::arena::PoolRef;
use crate::heap::pool::{AlreadyFree, Pool, State};
use crate::heap::purge_batch::RANGES_MAX;
use crate::heap::run::RunSize;
use crate::heap::{Heap, MapArena};
use crate::sync::Ordering;

/// The place in its arena of a pool that a set owns.
pub(super) fn place_of(heap: &Heap, pool: &Pool) -> PoolRef {
    let address = pool.start().addr();
    let Some(place) = heap.map.pool_of(address) else {
        // The map holds the arena of each pool that a set owns (*Known*).
        impossible(Impossible::PoolWithoutArena, address, pool.any_class().block_bytes())
    };
    place
}

impl Inside<'_> {
    /// Opens an empty pool of the set for `class`.
    #[cfg_attr(target_os = "linux", unsafe(link_section = ".text_pymalloc"))]
    pub(super) fn open_empty<K: Kind>(&mut self, class: Class<K>) -> bool {
        if class.pool_pools() > 1 {
            return false;
        }
        let Some(pool) = self.empty_with_memory() else {
            return false;
        };
        let place = place_of(self.heap, pool);
        self.pools.empty.remove(pool);
        self.pools.empty_count -= 1;
        self.open(place, class);
        true
    }

    /// An empty pool of the set that has all of its memory.
    #[inline]
    fn empty_with_memory(&self) -> Option<&Pool> {
        if !self.heap.commits() {
            return self.pools.empty.first();
        }
        self.pools.empty.iter().find(|pool| self.heap.commit_parts(pool))
    }

    /// Takes a pool from the heap, and opens it for `class`.
    #[cfg_attr(target_os = "linux", unsafe(link_section = ".text_pymalloc"))]
    pub(super) fn open_new<K: Kind>(&mut self, class: Class<K>, wish: MapArena) -> bool {
        if class.pool_pools() > 1 {
            return self.open_run(class, wish);
        }
        let needs_all = self.pools.of_class(class) >= FAULT_IN_FROM_POOLS;
        let Some(place) = self.heap.take_pool::<K>(wish, self.is_dense(), needs_all) else {
            return false;
        };
        self.pools.owned_count += 1;
        self.open(place, class);
        true
    }

    /// Takes several pools side by side from the heap, and opens them as one pool for `class`.
    fn open_run<K: Kind>(&mut self, class: Class<K>, wish: MapArena) -> bool {
        let pools = class.pool_pools();
        let Some(place) = self.heap.take_run(wish, self.is_dense(), RunSize { pools, align_pools: pools }, |_| ())
        else {
            return false;
        };
        self.pools.owned_count += pools;
        self.open(place, class);
        true
    }

    /// Whether the set fills the pools that it takes, so that it would fill an arena with a huge page, too.
    fn is_dense(&self) -> bool {
        let owned_bytes = self.pools.owned_count * POOL_BYTES;
        self.pools.owned_count >= DENSE_POOLS_MIN
            && self.pools.used_bytes >= owned_bytes - owned_bytes / DENSE_FREE_SHARE
    }

    fn open<K: Kind>(&mut self, place: PoolRef, class: Class<K>) {
        let pool = place.pool();
        pool.open(class);
        pool.set_state(State::Partial);
        self.set_tags(place, class);
        if K::IS_SMALL {
            self.heap.classes.enter(pool.start().addr(), class);
        } else {
            for part in place.run(class.pool_pools()) {
                self.heap.classes.enter(part.start().addr(), class);
            }
        }
        self.pools.partial(class).push_last(pool);
        self.pools.add_of_class(class);
    }

    /// Writes the set and the class into the tag of a pool, and into the tags of the pools behind it.
    #[inline(always)]
    pub(super) fn set_tags<K: Kind>(&self, place: PoolRef, class: Class<K>) {
        // Relaxed (both): a thread that reads the tag holds a block of the pool, which came to it after this.
        if K::IS_SMALL {
            place.tag().store(self.set.tag(class), Ordering::Relaxed);
        } else {
            place.run(class.pool_pools()).for_each(|part| part.tag().store(self.set.tag(class), Ordering::Relaxed));
        }
    }

    /// Aborts, and says that a block of the set's own pool is free already.
    #[cold]
    #[inline(never)]
    pub(super) fn refuse_twice<K: Kind>(&self, pool: &Pool, class: Class<K>, twice: AlreadyFree) -> ! {
        let address = pool.start().addr() + twice.block * class.block_bytes();
        impossible(Impossible::AlreadyFree, address, class.block_bytes())
    }

    /// Counts the bytes of blocks that came home.
    #[inline]
    pub(super) fn account_home<K: Kind>(&mut self, blocks: u32, class: Class<K>) {
        self.pools.used_bytes = self.pools.used_bytes.wrapping_sub(blocks as usize * class.block_bytes());
    }

    /// Undoes [`account_home`](Self::account_home) for blocks that are not home.
    #[inline]
    pub(super) fn account_away<K: Kind>(&mut self, blocks: u32, class: Class<K>) {
        self.pools.used_bytes = self.pools.used_bytes.wrapping_add(blocks as usize * class.block_bytes());
    }

    /// Puts a pool where it belongs now, after blocks have come home to it. `may_be_full` is false only if some of its
    /// blocks were free before.
    #[inline(always)]
    pub(super) fn relink<K: Kind>(&mut self, pool: &Pool, class: Class<K>, may_be_full: bool) {
        if pool.used() == 0 {
            self.retire(pool, class);
        } else if may_be_full {
            self.link_if_full(pool, class);
        }
    }

    #[inline]
    fn link_if_full<K: Kind>(&mut self, pool: &Pool, class: Class<K>) {
        if pool.state() == State::Full {
            pool.set_state(State::Partial);
            self.pools.partial(class).push_last(pool);
        }
    }

    /// Takes a pool whose blocks are all home out of its class.
    #[cold]
    #[cfg_attr(target_os = "linux", unsafe(link_section = ".text_pymalloc"))]
    fn retire<K: Kind>(&mut self, pool: &Pool, class: Class<K>) {
        if pool.state() == State::Partial {
            self.pools.partial(class).remove(pool);
        }
        self.pools.remove_of_class(class);
        if class.pool_pools() > 1 {
            return self.return_run(pool, class);
        }
        pool.set_state(State::Empty);
        self.pools.empty.push_first(pool);
        self.pools.empty_count += 1;
        if self.pools.empty_count > SET_EMPTY_POOLS_MAX {
            self.return_empty_pools(SET_EMPTY_POOLS_MAX / 2);
        }
    }

    /// Returns several pools that were one, and are empty, to their arena.
    #[cold]
    fn return_run<K: Kind>(&mut self, pool: &Pool, class: Class<K>) {
        let (place, pools) = (place_of(self.heap, pool), class.pool_pools());
        place.run(pools).for_each(|part| self.heap.classes.leave(part.start().addr()));
        self.pools.owned_count -= pools;
        self.heap.give_run(place, pools);
    }

    /// Returns the set's empty pools to their arenas, except `keep` of them.
    #[cfg_attr(target_os = "linux", unsafe(link_section = ".text_pymalloc"))]
    pub(crate) fn return_empty_pools(&mut self, keep: usize) {
        if self.pools.empty_count <= keep {
            return;
        }
        let (heap, pools) = (self.heap, &mut *self.pools);
        heap.give_pools(core::iter::from_fn(|| {
            if pools.empty_count <= keep {
                return None;
            }
            // The longest empty first: the others may still be in the CPU's caches.
            let pool = pools.empty.last()?;
            pools.empty.remove(pool);
            pools.empty_count -= 1;
            pools.owned_count -= 1;
            let place = place_of(heap, pool);
            pool.set_state(State::Unused);
            // Relaxed: no block of the pool is outside, so no thread reads the tag.
            place.tag().store(ptr::null_mut(), Ordering::Relaxed);
            heap.classes.leave(pool.start().addr());
            Some(place)
        }));
    }
}

impl Inside<'_> {
    #[inline]
    pub(super) fn sweep_if_due(&mut self) {
        if self.pools.used_bytes < self.pools.sweep_below_bytes {
            self.pools.sweep_below_bytes = self.pools.used_bytes / SWEEP_AGAIN;
            self.sweep_kind::<Small>();
            if self.pools.medium.count != 0 && !self.may_keep_free_memory() {
                self.sweep_kind::<Medium>();
            }
        }
    }

    /// Whether all that is free in the set's pools may keep its memory, because it was wanted again soon before.
    fn may_keep_free_memory(&self) -> bool {
        self.pools.owned_count.saturating_sub(self.pools.used_bytes / POOL_BYTES) <= self.heap.recalled()
    }

    /// Gives the free parts of all partial pools back to the OS.
    ///
    /// After a peak, the blocks in use are often scattered over all pools, so that few pools ever become empty; CPython
    /// keeps such memory. A sweep is due only when little is in use, and again when much less is. So the frees since
    /// the peak pay for its cost, a look at each partial pool.
    #[cold]
    pub(crate) fn sweep(&mut self) {
        self.sweep_kind::<Small>();
        if self.pools.medium.count != 0 {
            self.sweep_kind::<Medium>();
        }
    }

    fn sweep_kind<K: Kind>(&self) {
        let mut found = [None; RANGES_MAX];
        let mut count = 0;
        let all = Class::<K>::all().flat_map(|class| self.pools.partial(class).iter());
        for pool in all.filter(|pool| pool.purgeable(true) != 0) {
            found[count] = Some(place_of(self.heap, pool));
            count += 1;
            // No more pools than that under one hold of the heap's lock.
            if count == RANGES_MAX {
                self.heap.purge_parts(found.into_iter().flatten());
                count = 0;
            }
        }
        if count > 0 {
            self.heap.purge_parts(found[..count].iter().copied().flatten());
        }
    }
}
