//! At least how many allocations there were: counted where magazines are refilled, never on the fast path.
//!
//! A magazine that was refilled with some blocks, and is empty again, gave at least so many to the program: unless some
//! left it by another way, a flush or a stow, and then those of this refill are not counted. Further allocations, of
//! blocks that were freed into the magazine meanwhile, are not seen. Only with the feature `__raw`, for the preload
//! library's report.

#[cfg(feature = "__raw")]
mod counts {
    use super::super::{GLOBAL, ThreadCache};
    use crate::base::kind::Kind;
    use crate::base::size_class::{Class, SizeClass};
    use crate::heap::door::{Door, DoorCell};
    use crate::sync::{AtomicU64, Ordering};

    /// Blocks that the last refill of a magazine brought, if none left it but to the program.
    pub(crate) struct Filled(DoorCell<u16>);

    impl Filled {
        pub(crate) const fn new() -> Self {
            Self(DoorCell::new(0))
        }
    }

    /// Allocations by a cache so far, at least.
    pub(crate) struct Allocations(DoorCell<u64>);

    impl Allocations {
        pub(crate) const fn new() -> Self {
            Self(DoorCell::new(0))
        }
    }

    /// Allocations by threads without a cache, exactly, and what ended threads counted.
    static BY_SPARE: AtomicU64 = AtomicU64::new(0);

    /// A thread without a cache allocates.
    pub(crate) fn note_spare_allocation() {
        // Relaxed: a count alone.
        BY_SPARE.fetch_add(1, Ordering::Relaxed);
    }

    impl ThreadCache {
        fn add(&self, allocations: u64, door: Door<'_>) {
            let before = self.allocations.0.get(door);
            self.allocations.0.set(door, before.wrapping_add(allocations));
        }

        /// A block goes to the program past the magazine.
        pub(crate) fn note_allocation(&self, door: Door<'_>) {
            self.add(1, door);
        }

        /// The magazine is empty: what the last refill brought is gone.
        pub(crate) fn count_filled<K: Kind>(&self, class: Class<K>, door: Door<'_>) {
            self.add(u64::from(self.shape(class).filled.0.replace(door, 0)), door);
        }

        /// The magazine was empty before it got what it holds.
        pub(crate) fn note_filled<K: Kind>(&self, class: Class<K>, door: Door<'_>) {
            self.shape(class).filled.0.set(door, self.blocks(class, door).len() as u16);
        }

        /// What the last refills brought and is not in the magazines any more.
        fn gone_since_filled(&self, door: Door<'_>) -> u64 {
            let filled = |class| usize::from(self.shape(class).filled.0.get(door));
            let gone = |class| filled(class).saturating_sub(self.blocks(class, door).len());
            SizeClass::all().map(|class| gone(class) as u64).sum()
        }

        /// The cache is empty, and no thread has it: what it counted goes to those of threads without one, because bare
        /// sets are not walked.
        pub(crate) fn retire_count(&self, door: Door<'_>) {
            // Relaxed: a count alone.
            BY_SPARE.fetch_add(self.allocations.0.replace(door, 0), Ordering::Relaxed);
        }

        /// Blocks leave the magazine, but not to the program.
        pub(crate) fn note_left<K: Kind>(&self, class: Class<K>, door: Door<'_>) {
            self.shape(class).filled.0.set(door, 0);
        }
    }

    /// Allocations of small blocks in the program so far, at least.
    pub(crate) fn allocations_min() -> u64 {
        // Nobody retires a count meanwhile, and no set comes twice.
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

    /// Nothing.
    pub(crate) struct Filled;

    impl Filled {
        pub(crate) const fn new() -> Self {
            Self
        }
    }

    /// Nothing.
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
