//! Taking blocks for a refill: from the set's partial pools, or from a further pool that the set gets.

use core::ptr::{self, NonNull};

use super::Inside;
use crate::base::config::{POOL_BYTES, STEAL_SETS_MAX, SWEEP_ARM_SHARE, SWEEP_MIN_BYTES, SWEEP_SHARE};
use crate::base::kind::Kind;
use crate::base::size_class::Class;
use crate::heap::MapArena;
use crate::heap::pool::Slot;
use crate::heap::pool::{Block, Pool, State};
use crate::os;

impl Inside<'_> {
    /// Fills `slots` from the front with free blocks of `class`, and returns their number.
    ///
    /// It takes fewer than asked for if more would need a new pool, and none only when there is no memory. The blocks
    /// are ordered so that popping them from the end gives ascending addresses within a pool.
    #[cfg_attr(target_os = "linux", unsafe(link_section = ".text_pymalloc"))]
    pub(crate) fn take<K: Kind>(&mut self, class: Class<K>, slots: &[Slot]) -> usize {
        // Filled from the back, because blocks come in ascending order.
        let mut rest = slots;
        while !rest.is_empty() {
            let Some(pool) = self.pool_with_free(class, rest.len() == slots.len()) else { break };
            rest = pool.take::<K>(rest);
            self.unlink_if_full(pool, class);
        }
        let (rest, taken) = (rest.len(), slots.len() - rest.len());
        if rest > 0 {
            // SAFETY: both are inside `slots`, which are cells that no other thread reads without the door.
            unsafe { ptr::copy(slots.as_ptr().add(rest), slots.as_ptr().cast_mut(), taken) };
        }
        self.note_taken(taken * class.block_bytes());
        taken
    }

    /// Counts bytes that were taken. While much of the set is in use, sets the bytes in use below which a sweep will be
    /// due.
    fn note_taken(&mut self, bytes: usize) {
        self.pools.used_bytes = self.pools.used_bytes.wrapping_add(bytes);
        let owned_bytes = self.pools.owned_count * POOL_BYTES;
        if owned_bytes >= SWEEP_MIN_BYTES && self.pools.used_bytes > owned_bytes / SWEEP_ARM_SHARE {
            self.pools.sweep_below_bytes = owned_bytes / SWEEP_SHARE;
        }
    }

    /// Takes one free block of `class`, and tells whether it is known to be zero.
    pub(crate) fn take_one<K: Kind>(&mut self, class: Class<K>) -> Option<Block> {
        let pool = self.pool_with_free(class, true)?;
        let block = pool.take_one::<K>();
        self.unlink_if_full(pool, class);
        self.note_taken(class.block_bytes());
        block
    }

    /// Takes one free block of `class` from a partial pool of the set, without getting a further pool. For any thread,
    /// not only the set's.
    pub(crate) fn take_open<K: Kind>(&mut self, class: Class<K>) -> Option<Block> {
        if self.pools.partial(class).is_empty() {
            return None;
        }
        self.take_one(class)
    }

    #[inline]
    fn unlink_if_full<K: Kind>(&self, pool: &Pool, class: Class<K>) {
        if !pool.has_free() {
            self.pools.partial(class).remove(pool);
            pool.set_state(State::Full);
        }
    }

    /// A partial pool of `class`. The set gets a further pool only if `needed`.
    #[inline]
    fn pool_with_free<'heap, K: Kind>(&mut self, class: Class<K>, needed: bool) -> Option<&'heap Pool> {
        if self.pools.partial(class).is_empty() && !self.find_pool(class, needed) {
            return None;
        }
        // SAFETY: pools live in metadata, which is never unmapped.
        let pool = self.pools.partial(class).first().map(|pool| unsafe { &*ptr::from_ref(pool) })?;
        if os::COMMITS && pool.purged() != 0 && self.heap.commits() {
            return self.pool_with_memory(pool, class, needed);
        }
        Some(pool)
    }

    /// The partial pool `first`, once its purged parts are committed. If the OS refuses, a partial pool without such
    /// parts, which becomes the first of its list. The set gets a further pool only if `needed`.
    #[cold]
    fn pool_with_memory<'heap, K: Kind>(
        &mut self,
        first: &'heap Pool,
        class: Class<K>,
        needed: bool,
    ) -> Option<&'heap Pool> {
        if self.heap.commit_parts(first) {
            return Some(first);
        }
        let whole = |inside: &Self| {
            let pool = inside.pools.partial(class).iter().find(|pool| pool.purged() == 0);
            // SAFETY: pools live in metadata, which is never unmapped.
            pool.map(|pool| unsafe { &*ptr::from_ref(pool) })
        };
        let pool = match whole(self) {
            Some(pool) => pool,
            // A pool that was stolen may have such parts, too.
            None if self.find_pool(class, needed) => whole(self)?,
            None => return None,
        };
        let partial = self.pools.partial(class);
        partial.remove(pool);
        partial.push_first(pool);
        Some(pool)
    }

    /// Gets the set a partial pool of `class`, and returns whether it has one. The cheapest ways are tried first.
    #[cold]
    #[cfg_attr(target_os = "linux", unsafe(link_section = ".text_pymalloc"))]
    fn find_pool<K: Kind>(&mut self, class: Class<K>, needed: bool) -> bool {
        if !self.set.inbox::<K>().is_empty() {
            self.collect_kind::<K>();
            if !self.pools.partial(class).is_empty() {
                return true;
            }
        }
        needed
            && (self.steal(class, STEAL_SETS_MAX, false)
                || self.open_empty(class)
                || self.open_new(class, MapArena::No)
                || self.steal(class, usize::MAX, true)
                || self.open_new(class, MapArena::Soft)
                || self.scrape(class))
    }

    /// Collects for all other sets and returns their empty pools, before an arena beyond the soft limit is mapped. It
    /// leaves out a set that another thread is inside. So if it finds nothing, the caller must not return null yet (see
    /// `cache/last_resort.rs`).
    fn scrape<K: Kind>(&mut self, class: Class<K>) -> bool {
        let own = NonNull::from(self.set);
        for other in self.heap.sets().filter(|&other| other != own) {
            // SAFETY: sets are never unmapped.
            let other = unsafe { other.as_ref() };
            other.try_enter(self.heap, |other| {
                other.collect();
                other.return_empty_pools(0);
            });
        }
        self.open_new(class, MapArena::Hard)
    }
}
