//! Pools and blocks that pass between threads: collecting remote frees, stealing from parked sets, parking and
//! adopting.

use super::Inside;
use super::pools::place_of;
use crate::base::kind::{Kind, Medium, Small};
use crate::base::size_class::Class;
use crate::heap::arena::PoolRef;
use crate::heap::pool::State;
use crate::sync::Ordering;

impl Inside<'_> {
    /// Collects the blocks that other threads freed into the set's pools.
    pub(crate) fn collect(&mut self) {
        if !self.set.medium_inbox.is_empty() {
            self.take_inbox::<Medium>();
        }
        self.collect_kind::<Small>();
    }

    /// The same for the pools of one kind.
    #[cfg_attr(target_os = "linux", unsafe(link_section = ".text_pymalloc"))]
    pub(super) fn collect_kind<K: Kind>(&mut self) {
        self.take_inbox::<K>();
        if self.set.is_parked() {
            // No thread will come for the empty ones.
            self.return_empty_pools(0);
            self.show_stealable();
        }
        self.sweep_if_due();
    }

    #[inline]
    fn take_inbox<K: Kind>(&mut self) {
        // SAFETY: the door is held, and every pool's count is collected below.
        for (remote, home) in unsafe { self.set.inbox::<K>().take_all() } {
            // SAFETY: `give_remote` pushes these two words of a pool.
            let place = unsafe { PoolRef::from_inbox(remote, home) };
            self.collect_pool::<K>(place, place.remote().collect_count());
        }
    }

    /// Brings home the remote frees of one pool; `blocks` is their number.
    #[cfg_attr(target_os = "linux", unsafe(link_section = ".text_pymalloc"))]
    fn collect_pool<K: Kind>(&mut self, place: PoolRef, blocks: u32) {
        let pool = place.pool();
        let class = pool.class::<K>();
        for word in 0..class.bitmap_words() {
            let mask = place.remote_word(word).collect();
            if mask != 0
                && let Err(twice) = pool.free(word, mask)
            {
                self.refuse_twice(pool, class, twice);
            }
        }
        pool.count_home(blocks);
        self.account_home(blocks, class);
        if pool.has_free() {
            self.relink(pool, class, true);
        }
    }

    /// Takes a partly free pool of `class` from a parked set among the newest `sets_max` sets. With `any_parked`, looks
    /// into each parked set, whatever its hint says; pools that become empty by that go to their arenas. It leaves out
    /// a set that another thread is inside. So if it finds nothing, the caller must not return null yet (see
    /// `cache/last_resort.rs`).
    #[cold]
    #[cfg_attr(target_os = "linux", unsafe(link_section = ".text_pymalloc"))]
    pub(super) fn steal<K: Kind>(&mut self, class: Class<K>, sets_max: usize, any_parked: bool) -> bool {
        let heap = self.heap;
        if heap.parked_count() <= heap.bare_count() {
            return false;
        }
        heap.sets().take(sets_max).any(|other| {
            // SAFETY: sets are never unmapped.
            let other = unsafe { other.as_ref() };
            // Relaxed: a hint, which spares opening doors behind which there is nothing to take.
            let has_class = other.stealable::<K>().load(Ordering::Relaxed) & (1 << class.number()) != 0;
            if !other.is_parked() || !(has_class || any_parked || !other.inbox::<K>().is_empty()) {
                return false;
            }
            // Our own set is not parked.
            other.try_enter(heap, |other| self.steal_from(other, class)).unwrap_or(false)
        })
    }

    fn steal_from<K: Kind>(&mut self, other: &mut Inside<'_>, class: Class<K>) -> bool {
        if !other.set.is_parked() {
            return false;
        }
        other.collect();
        let found = self.steal_partial(other, class);
        if found {
            other.show_stealable();
        }
        found
    }

    fn steal_partial<K: Kind>(&mut self, other: &mut Inside<'_>, class: Class<K>) -> bool {
        // A pool into which others freed since the collection can't be claimed. It is left to the inbox.
        let claimed = other.pools.partial(class).iter().find_map(|pool| {
            let place = place_of(self.heap, pool);
            place.remote().claim().then_some(place)
        });
        let Some(place) = claimed else { return false };
        let pool = place.pool();
        other.pools.partial(class).remove(pool);
        // Published by the Release of `collect_count`.
        self.set_tags(place, class);
        self.pools.partial(class).push_last(pool);
        other.pools.remove_of_class(class);
        self.pools.add_of_class(class);
        self.take_over(other, class.pool_pools(), pool.used() as usize * class.block_bytes());
        let blocks = place.remote().collect_count().wrapping_sub(1);
        self.collect_pool::<K>(place, blocks);
        // It is not partial if its last blocks came home just now.
        pool.state() == State::Partial
    }

    /// Moves a pool from the other set's account to this set's. The pool consists of `pools` of the arena's pools, and
    /// has `used_bytes` in use.
    fn take_over(&mut self, other: &mut Inside<'_>, pools: usize, used_bytes: usize) {
        other.pools.owned_count -= pools;
        self.pools.owned_count += pools;
        other.pools.used_bytes = other.pools.used_bytes.wrapping_sub(used_bytes);
        self.pools.used_bytes = self.pools.used_bytes.wrapping_add(used_bytes);
    }

    /// Updates the hints for thieves.
    fn show_stealable(&self) {
        self.show_stealable_kind::<Small>();
        // Relaxed: as below.
        if self.pools.medium.count != 0 || self.set.medium_stealable.load(Ordering::Relaxed) != 0 {
            self.show_stealable_kind::<Medium>();
        }
    }

    fn show_stealable_kind<K: Kind>(&self) {
        let mut classes = 0;
        if self.set.is_parked() {
            for class in Class::<K>::all() {
                classes |= u64::from(!self.pools.partial(class).is_empty()) << class.number();
            }
        }
        // Relaxed: a hint.
        self.set.stealable::<K>().store(classes, Ordering::Relaxed);
    }

    /// Parks the set, whose thread ended: collects its remote frees, returns its empty pools, and opens it to thieves.
    pub(super) fn park(&mut self) {
        // Relaxed: a hint, or ordered by the door.
        self.set.parked.store(1, Ordering::Relaxed);
        self.collect();
    }

    /// Marks the set as no longer parked: a thread took it over.
    pub(crate) fn adopt(&mut self) {
        // Relaxed: a hint, or ordered by the door.
        self.set.parked.store(0, Ordering::Relaxed);
        self.set.cache_is_empty.set(false);
        self.show_stealable();
    }
}
