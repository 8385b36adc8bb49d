//! The register of pool sets: the sets that a walk must see, the list of parked sets, and whether new caches are
//! poisoned.
//!
//! # Bare sets
//! The set of an ended thread is *bare* when it is parked, owns no pool, and its cache is empty. Then no tag names it,
//! and no thread pushes to its inbox: a thread that pushes holds a block of a pool that the set owns. Bare sets leave
//! the register until a thread adopts them. So the cost of walking all sets, or of stopping them, depends on the
//! running threads, and on the ended threads that left something.
//!
//! # Invariants
//! - *Shut*: a set is out of the register if and only if it is bare, and then its door is shut (see `lock`). Both
//!   change together, under the heap's lock. So nothing of it changes until it is adopted. A walker that still finds it
//!   is refused at the door and passes on. So is a thread whose knock comes after its blocks were collected.
//! - *Listed*: only a set in the list of parked sets becomes bare. A set that was parked, but is not in the list yet,
//!   still belongs to the thread that parks it. A set that was taken from the list, but is not adopted yet, belongs to
//!   the thread that adopts it.
//! - *Stopped*: a thread that holds the heap's lock, and the door of each set in the register, holds all doors that any
//!   thread could hold.

use core::ptr::{self, NonNull};

use super::{Heap, HeapState};
use crate::heap::set::{PoolSet, Pools};
use crate::os::MemorySource;
use crate::protocols::lock::Guard;
use crate::sync::Ordering;

impl Heap {
    /// Makes a `T` in metadata, and enters the set that `init` makes of it into the register.
    ///
    /// `T` must be valid when zeroed. `None` when the OS gives no memory.
    pub(crate) fn make_set<T>(&self, init: impl FnOnce(NonNull<T>) -> NonNull<PoolSet>) -> Option<NonNull<T>> {
        self.with_state(|state, source| {
            // First, because metadata is never given back.
            self.make_room(state, source)?;
            let place = state.metadata.alloc::<T>(source)?;
            self.register(init(place));
            Some(place)
        })
    }

    /// Makes sure that the register has a place for one more set. Under the heap's lock.
    fn make_room(&self, state: &mut HeapState, source: &'static dyn MemorySource) -> Option<()> {
        if let Some(places) = self.sets.missing_row() {
            let row = state.metadata.alloc_many(places, source)?;
            // SAFETY: `places` zeroed words of metadata, which is never unmapped.
            unsafe { self.sets.add_row(row) };
        }
        Some(())
    }

    /// Adds a set to the register, under the heap's lock: so while the slow paths are stopped, only the forking thread
    /// itself adds one.
    fn register(&self, set: NonNull<PoolSet>) {
        let place = self.sets.enter(set);
        // SAFETY: sets are never unmapped; the heap's lock guards the place.
        unsafe { set.as_ref() }.place.set(place + 1);
    }

    /// Takes a set out of the register. Under the heap's lock.
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

    /// Whether new caches are poisoned. A new cache asks under its door, after it was registered.
    pub(crate) fn poisons(&self) -> bool {
        // Relaxed: ordered by the heap's lock, which the register's writer and `set_poisons` both take.
        self.poisons.load(Ordering::Relaxed) != 0
    }

    /// Sets whether new caches are poisoned. The caller has to reach those that are in the register by now.
    pub(crate) fn set_poisons(&self, poisons: bool) {
        // Relaxed: as in `poisons`.
        self.with_state(|_, _| self.poisons.store(u32::from(poisons), Ordering::Relaxed));
    }

    /// Every set that was in the register before the call and stays there; the spare set comes last. A set may come
    /// twice, unless the slow paths are stopped, and a set may come that is bare by now.
    pub(crate) fn sets(&self) -> impl Iterator<Item = NonNull<PoolSet>> + '_ {
        self.sets.walk().chain(core::iter::once(NonNull::from(&self.spare)))
    }

    /// Puts a set that is marked as parked into the list, where `unpark` finds it.
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

    /// Takes a set without pools and cached blocks out of the register, and shuts its door, which `guard` holds. Gives
    /// the guard back if the set belongs to a thread (*Listed*).
    pub(crate) fn lay_bare<'set>(
        &self,
        set: &'set PoolSet,
        guard: Guard<'set, Pools>,
    ) -> Result<(), Guard<'set, Pools>> {
        self.with_state(|_, _| {
            // During a fork, the forking thread is let through a door that its stop holds: then the guard does not own
            // it.
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
                // It had a place before it left the register, but other sets may have taken that since.
                self.make_room(state, source)?;
                self.register(set);
                // Relaxed: a hint.
                self.bare_sets.fetch_sub(1, Ordering::Relaxed);
                // SAFETY: shut, because it is bare; the heap's lock keeps others from opening it.
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

    /// Bare sets among the parked ones; a hint, too.
    pub(crate) fn bare_count(&self) -> usize {
        // Relaxed: a hint.
        self.bare_sets.load(Ordering::Relaxed) as usize
    }
}
