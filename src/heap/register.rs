//! The register of pool sets: every set ever made, which of them are parked, and whether new ones are poisoned.

use core::ptr::{self, NonNull};

use super::Heap;
use crate::heap::set::PoolSet;
use crate::sync::Ordering;

impl Heap {
    /// Makes a `T` in metadata and enters the set that `init` makes of it in the register, both for ever.
    ///
    /// `T` must be valid when zeroed. `None` when the OS gives nothing.
    pub(crate) fn make_set<T>(&self, init: impl FnOnce(NonNull<T>) -> NonNull<PoolSet>) -> Option<NonNull<T>> {
        self.with_state(|state, source| {
            let place = state.metadata.alloc::<T>(source)?;
            self.register(init(place));
            Some(place)
        })
    }

    /// Adds a set to the register. Under the heap's lock, so that none comes while the slow paths are stopped (but
    /// by the forking thread itself).
    fn register(&self, set: NonNull<PoolSet>) {
        // Relaxed: written under the lock that is held.
        let head = self.sets.load(Ordering::Relaxed);
        // SAFETY: sets are never unmapped. Nobody else touches the link before the set is published.
        unsafe { set.as_ref() }.next_registered.set(head);
        // Release: the set's contents and link happen before the Acquire in `sets`.
        self.sets.store(set.as_ptr(), Ordering::Release);
        // Relaxed: a number, for budgets.
        self.set_count.fetch_add(1, Ordering::Relaxed);
    }

    /// Sets ever made: of running threads and parked ones.
    pub(crate) fn set_count(&self) -> usize {
        // Relaxed: as in `register`.
        self.set_count.load(Ordering::Relaxed) as usize
    }

    /// Whether new caches are to be poisoned: asked under the new cache's door, after it was registered.
    pub(crate) fn poisons(&self) -> bool {
        // Relaxed: ordered by the heap's lock, which the register's writer and `set_poisons` both take.
        self.poisons.load(Ordering::Relaxed) != 0
    }

    /// Has new caches poisoned, or not; those in the register by now are the caller's to reach.
    pub(crate) fn set_poisons(&self, poisons: bool) {
        // Relaxed: as in `poisons`.
        self.with_state(|_, _| self.poisons.store(u32::from(poisons), Ordering::Relaxed));
    }

    /// Every set made before the call, newest first; the spare one last.
    pub(crate) fn sets(&self) -> impl Iterator<Item = NonNull<PoolSet>> + '_ {
        // Acquire: pairs with the Release in `register`.
        let first = NonNull::new(self.sets.load(Ordering::Acquire));
        core::iter::successors(first, |set| {
            // SAFETY: sets are never unmapped, and the link never changes once registered.
            NonNull::new(unsafe { set.as_ref() }.next_registered.get().cast_mut())
        })
        .chain(core::iter::once(NonNull::from(&self.spare)))
    }

    /// Sets that threads have now; a hint while threads start and end.
    pub(crate) fn running_count(&self) -> usize {
        self.set_count().saturating_sub(self.parked_count())
    }

    /// Puts a set, whose state says that it is parked, where `adopt` finds it.
    pub(crate) fn park(&self, set: NonNull<PoolSet>) {
        self.with_state(|state, _| {
            // SAFETY: sets are never unmapped; the heap's lock guards the link.
            unsafe { set.as_ref() }.next_parked.set(state.parked);
            state.parked = set.as_ptr();
        });
        // Relaxed: a hint.
        self.parked_sets.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes a parked set, the last parked first.
    pub(crate) fn unpark(&self) -> Option<NonNull<PoolSet>> {
        // Relaxed (both): a hint; a set parked just now is found next time. A write rather than a load, because the OS
        // page is written next, and costs a second fault if it is read first.
        if self.parked_sets.compare_exchange(0, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            return None;
        }
        let set = self.with_state(|state, _| {
            let set = NonNull::new(state.parked.cast_mut())?;
            // SAFETY: as in `park`.
            state.parked = unsafe { set.as_ref() }.next_parked.replace(ptr::null());
            Some(set)
        })?;
        // Relaxed: a hint.
        self.parked_sets.fetch_sub(1, Ordering::Relaxed);
        Some(set)
    }

    /// Forgets which sets are parked: in a forked child, where all sets but the caller's are.
    pub(crate) fn forget_parked(&self) {
        self.with_state(|state, _| state.parked = ptr::null());
        // Relaxed: a hint.
        self.parked_sets.store(0, Ordering::Relaxed);
    }

    /// Sets that are parked; a hint while threads start and end.
    pub(crate) fn parked_count(&self) -> usize {
        // Relaxed: a hint.
        self.parked_sets.load(Ordering::Relaxed) as usize
    }
}
