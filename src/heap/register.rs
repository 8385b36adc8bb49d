//! The register of pool sets: those that a walk must see, which sets are parked, and whether new ones are poisoned.
//!
//! # Bare sets
//! A set of an ended thread is *bare* when it is parked, owns no pool, and its cache is empty. Then no tag names it,
//! and nobody pushes to its inbox: who is bound to push holds a block of a pool that the set owns. Bare sets leave the
//! register, until a thread adopts them; so what walks the sets, or stops them all, costs by running threads, and by
//! the ended ones of whom something is left.
//!
//! # Invariants
//! - *Shut*: a set is out of the register if and only if it is bare, and then its door is shut (see `lock`). Both
//!   change together, under the heap's lock. So nothing of it changes until it is adopted: a walker that still finds
//!   it, or a thread that comes to knock for blocks that are home by now, goes away.
//! - *Listed*: only a set in the list of parked sets becomes bare. One that was parked, but is not in the list yet, or
//!   was taken from it and is not adopted yet, is somebody's.
//! - *Stopped*: who holds the heap's lock, and the door of each set in the register, holds all doors that anybody
//!   could.

use core::ptr::{self, NonNull};

use super::{Heap, HeapState};
use crate::heap::set::{PoolSet, Pools};
use crate::os::MemorySource;
use crate::protocols::lock::Guard;
use crate::sync::Ordering;

impl Heap {
    /// Makes a `T` in metadata and enters the set that `init` makes of it in the register.
    ///
    /// `T` must be valid when zeroed. `None` when the OS gives nothing.
    pub(crate) fn make_set<T>(&self, init: impl FnOnce(NonNull<T>) -> NonNull<PoolSet>) -> Option<NonNull<T>> {
        self.with_state(|state, source| {
            // First, because what was had of the metadata does not go back.
            self.make_room(state, source)?;
            let place = state.metadata.alloc::<T>(source)?;
            self.register(init(place));
            Some(place)
        })
    }

    /// Sees to it that there is a place for one set more. Heap lock.
    fn make_room(&self, state: &mut HeapState, source: &'static dyn MemorySource) -> Option<()> {
        if let Some(places) = self.sets.missing_row() {
            let row = state.metadata.alloc_many(places, source)?;
            // SAFETY: so many zeroed words of metadata, which is never unmapped.
            unsafe { self.sets.add_row(row) };
        }
        Some(())
    }

    /// Adds a set to the register. Heap lock: so none comes while the slow paths are stopped, unless by the forking
    /// thread itself.
    fn register(&self, set: NonNull<PoolSet>) {
        let place = self.sets.enter(set);
        // SAFETY: sets are never unmapped; the heap's lock guards the place.
        unsafe { set.as_ref() }.place.set(place + 1);
    }

    /// Takes a set out of the register. Heap lock.
    fn unregister(&self, set: &PoolSet) {
        let place = set.place.replace(0) - 1;
        if let Some(moved) = self.sets.strike(place) {
            // SAFETY: as in `register`.
            unsafe { moved.as_ref() }.place.set(place + 1);
        }
    }

    /// Whether the register has `set` at `place`.
    pub(crate) fn is_at(&self, place: usize, set: &PoolSet) -> bool {
        place < self.sets.count() && self.sets.at(place).is_some_and(|found| ptr::eq(found.as_ptr(), set))
    }

    /// Sets in the register.
    pub(crate) fn set_count(&self) -> usize {
        self.sets.count()
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

    /// Every set that was in the register before the call and stays there, the spare one last. One may come twice,
    /// unless the slow paths are stopped; and one may come that is bare by now.
    pub(crate) fn sets(&self) -> impl Iterator<Item = NonNull<PoolSet>> + '_ {
        self.sets.walk().chain(core::iter::once(NonNull::from(&self.spare)))
    }

    /// Puts a set, whose state says that it is parked, where `unpark` finds it.
    pub(crate) fn park(&self, set: NonNull<PoolSet>) {
        self.with_state(|state, _| {
            // SAFETY: sets are never unmapped; the heap's lock guards the link and the flag.
            let this = unsafe { set.as_ref() };
            this.next_parked.set(state.parked);
            this.is_listed.set(true);
            state.parked = set.as_ptr();
            // Relaxed: a hint.
            self.parked_sets.fetch_add(1, Ordering::Relaxed);
        });
    }

    /// Takes a set, which has no pool, no cached block, and whose door `guard` holds, out of the register, and shuts
    /// its door. Gives the guard back if the set is somebody's (*Listed*).
    pub(crate) fn lay_bare<'set>(
        &self,
        set: &'set PoolSet,
        guard: Guard<'set, Pools>,
    ) -> Result<(), Guard<'set, Pools>> {
        self.with_state(|_, _| {
            // During a fork, a door that was let through is held by who stopped it.
            if !set.is_listed.get() || !guard.owns() {
                return Err(guard);
            }
            self.unregister(set);
            // Relaxed: a hint.
            self.bare_sets.fetch_add(1, Ordering::Relaxed);
            guard.shut();
            Ok(())
        })
    }

    /// Takes a parked set, the last parked first. It is in the register.
    pub(crate) fn unpark(&self) -> Option<NonNull<PoolSet>> {
        // Relaxed (both): a hint; a set parked just now is found next time. A write rather than a load, because the OS
        // page is written next, and costs a second fault if it is read first.
        if self.parked_sets.compare_exchange(0, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            return None;
        }
        self.with_state(|state, source| {
            let set = NonNull::new(state.parked.cast_mut())?;
            // SAFETY: as in `park`.
            let this = unsafe { set.as_ref() };
            if this.is_bare() {
                // There were as many places before it left; since then others may have come.
                self.make_room(state, source)?;
                self.register(set);
                // Relaxed: a hint.
                self.bare_sets.fetch_sub(1, Ordering::Relaxed);
                // SAFETY: shut since it is bare, and the heap's lock keeps others from opening it.
                unsafe { this.door.open() };
            }
            this.is_listed.set(false);
            state.parked = this.next_parked.replace(ptr::null());
            // Relaxed: a hint.
            self.parked_sets.fetch_sub(1, Ordering::Relaxed);
            Some(set)
        })
    }

    /// Whether a set is in the list of parked sets.
    pub(crate) fn is_listed(&self, set: &PoolSet) -> bool {
        self.with_state(|_, _| set.is_listed.get())
    }

    /// Sets that are parked; a hint while threads start and end.
    pub(crate) fn parked_count(&self) -> usize {
        // Relaxed: a hint.
        self.parked_sets.load(Ordering::Relaxed) as usize
    }

    /// Of these, bare ones; a hint, too.
    pub(crate) fn bare_count(&self) -> usize {
        // Relaxed: a hint.
        self.bare_sets.load(Ordering::Relaxed) as usize
    }
}
