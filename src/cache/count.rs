//! The least number of allocations so far, counted where magazines are refilled, never on the fast path.
//!
//! If a magazine was refilled and is empty again, the program got at least the blocks of that refill. If a flush or a
//! stow took some of them, that refill is not counted. Further allocations, of blocks that were freed into the magazine
//! meanwhile, are not seen. All this is for the preload library's report, with the feature `__raw` only.

#[cfg(feature = "__raw")]
mod counts {
    use super::super::{GLOBAL, ThreadCache};
    use crate::base::kind::Kind;
    use crate::base::size_class::{Class, SizeClass};
    use crate::heap::door::{Door, DoorCell};
    use crate::sync::{AtomicU64, Ordering};

    /// Blocks that the last refill of a magazine brought; 0 once a flush or a stow has taken some of them.
    pub(crate) struct Filled(DoorCell<u16>);

    impl Filled {
        pub(crate) const fn new() -> Self {
            Self(DoorCell::new(0))
        }
    }

    /// The least number of allocations by a cache so far.
    pub(crate) struct Allocations(DoorCell<u64>);

    impl Allocations {
        pub(crate) const fn new() -> Self {
            Self(DoorCell::new(0))
        }
    }

    /// The exact number of allocations by threads without a cache, plus the counts of ended threads.
    static BY_SPARE: AtomicU64 = AtomicU64::new(0);

    /// Counts an allocation by a thread without a cache.
    pub(crate) fn note_spare_allocation() {
        // Relaxed: a count alone.
        BY_SPARE.fetch_add(1, Ordering::Relaxed);
    }

    impl ThreadCache {
        fn add(&self, allocations: u64, door: Door<'_>) {
            let before = self.allocations.0.get(door);
            self.allocations.0.set(door, before.wrapping_add(allocations));
        }

        /// Counts a block that goes to the program past the magazine.
        pub(crate) fn note_allocation(&self, door: Door<'_>) {
            self.add(1, door);
        }

        /// Counts the blocks of the last refill: the magazine is empty, so they are gone.
        pub(crate) fn count_filled<K: Kind>(&self, class: Class<K>, door: Door<'_>) {
            self.add(u64::from(self.shape(class).filled.0.replace(door, 0)), door);
        }

        /// Notes a refill: the magazine was empty before, so all its blocks are of this refill.
        pub(crate) fn note_filled<K: Kind>(&self, class: Class<K>, door: Door<'_>) {
            self.shape(class).filled.0.set(door, self.blocks(class, door).len() as u16);
        }

        /// Blocks of the last refills that are no longer in the magazines.
        fn gone_since_filled(&self, door: Door<'_>) -> u64 {
            let filled = |class| usize::from(self.shape(class).filled.0.get(door));
            let gone = |class| filled(class).saturating_sub(self.blocks(class, door).len());
            SizeClass::all().map(|class| gone(class) as u64).sum()
        }

        /// Adds the cache's count to the one of threads without a cache. The cache is empty, no thread has it, and bare
        /// sets are not walked.
        pub(crate) fn retire_count(&self, door: Door<'_>) {
            // Relaxed: a count alone.
            BY_SPARE.fetch_add(self.allocations.0.replace(door, 0), Ordering::Relaxed);
        }

        /// Notes that a flush or a stow takes blocks out of the magazine.
        pub(crate) fn note_left<K: Kind>(&self, class: Class<K>, door: Door<'_>) {
            self.shape(class).filled.0.set(door, 0);
        }
    }

    /// The least number of allocations of small blocks in the program so far.
    pub(crate) fn allocations_min() -> u64 {
        // Meanwhile no thread retires a count, and no set comes twice.
        let stopped = GLOBAL.stop();
        let caches = GLOBAL.sets().filter_map(|set| {
            // SAFETY: a registered set of the heap's; caches are never unmapped.
            let cache = unsafe { ThreadCache::of_set(&GLOBAL, set)?.as_ref() };
            let door = stopped.door();
            Some(cache.allocations.0.get(door) + cache.gone_since_filled(door))
        });
        // Relaxed: a count alone.
        caches.sum::<u64>() + BY_SPARE.load(Ordering::Relaxed)
    }
}

#[cfg(not(feature = "__raw"))]
mod counts {
    use super::super::ThreadCache;
    use crate::base::kind::Kind;
    use crate::base::size_class::Class;
    use crate::heap::door::Door;

    /// The empty twin.
    pub(crate) struct Filled;

    impl Filled {
        pub(crate) const fn new() -> Self {
            Self
        }
    }

    /// The empty twin.
    pub(crate) struct Allocations;

    impl Allocations {
        pub(crate) const fn new() -> Self {
            Self
        }
    }

    #[inline(always)]
    pub(crate) fn note_spare_allocation() {}

    impl ThreadCache {
        #[inline(always)]
        pub(crate) fn note_allocation(&self, _door: Door<'_>) {
            let Allocations = self.allocations;
        }

        #[inline(always)]
        pub(crate) fn count_filled<K: Kind>(&self, class: Class<K>, _door: Door<'_>) {
            let Filled = self.shape(class).filled;
        }

        #[inline(always)]
        pub(crate) fn note_filled<K: Kind>(&self, _class: Class<K>, _door: Door<'_>) {}

        #[inline(always)]
        pub(crate) fn retire_count(&self, _door: Door<'_>) {}

        #[inline(always)]
        pub(crate) fn note_left<K: Kind>(&self, _class: Class<K>, _door: Door<'_>) {}
    }
}

pub(crate) use counts::*;
