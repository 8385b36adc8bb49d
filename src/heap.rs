//! What all threads share: the arenas, the metadata, the address map, and the register of pool sets.
//!
//! # Locks
//! In this order: `stop` → the doors of pool sets → `state`. A thread that holds a door, but not `stop`, takes other
//! doors only by `try_lock`; a thread that holds `state` takes no other lock.

use core::ptr::{self, NonNull};

use crate::arena::{Arena, PoolRef};
use crate::arena_map::ArenaMap;
use crate::arena_table::ArenaTable;
use crate::class_map::ClassMap;
use crate::config::{
    ARENA_BYTES, HUGE_FROM_ARENAS, HUGE_THREADS_PER_ARENA, MALLOC_KEEPS_BYTES_MIN, MALLOC_KEEPS_FROM_POOLS, POOL_BYTES,
    SOFT_LIMIT_SHARE,
};
use crate::lock::Lock;
use crate::marks;
use crate::metadata::Metadata;
use crate::os::{MemorySource, SystemMemory};
use crate::pool_set::PoolSet;
use crate::report;
use crate::sync::{AtomicPtr, AtomicU32, Ordering};

/// A heap: everything that the thread caches on top of it share.
///
/// The program has one, `GLOBAL`; tests make more, over memory sources that refuse and count.
pub(crate) struct Heap {
    /// `None` stands for the system's memory: so the program's heap is all zero at the start, and takes no room in
    /// its file.
    source: Option<&'static dyn MemorySource>,
    pub(crate) map: ArenaMap,
    /// Classes by address, with the feature `raw`.
    pub(crate) classes: ClassMap,
    /// Every set ever made, newest first; sets are never unmapped.
    sets: AtomicPtr<PoolSet>,
    /// The set of threads without a cache; always in the register, never parked.
    pub(crate) spare: PoolSet,
    /// Whether all caches are to be poisoned. Written under the heap's lock.
    poisons: AtomicU32,
    /// Sets that a thread parked and none adopted; a hint.
    parked_sets: AtomicU32,
    /// Held by who stops all slow paths.
    stop: Lock<Stopped>,
    /// Sets ever made.
    set_count: AtomicU32,
    state: Lock<HeapState>,
}

/// Whether a need may be met by mapping an arena.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Growth {
    /// From the arenas there are.
    No,
    /// Unless the limit is near: then others are to give up what they can spare first.
    Soft,
    /// Up to the limit.
    Hard,
}

/// The part of a heap under its lock.
pub(crate) struct HeapState {
    pub(crate) metadata: Metadata,
    pub(crate) arenas: ArenaTable,
    /// Metadata of arenas given back, zeroed, linked by `next`.
    spare_arenas: *const Arena,
    /// Parked sets, linked by `next_parked`.
    parked: *const PoolSet,
    /// Pools ever taken.
    pools_taken: u64,
    /// Most pools in use at one time.
    pools_peak: usize,
    /// `usize::MAX` less the most arenas that may be mapped; 0 is no limit.
    arenas_forbidden: usize,
}

// SAFETY: plain pointers to metadata that is never unmapped, touched under the lock.
unsafe impl Send for HeapState {}

/// How far the slow paths are stopped.
struct Stopped {
    /// The newest set whose door was taken; those made since were not there.
    newest: Option<NonNull<PoolSet>>,
}

// SAFETY: a plain pointer to a set, which is never unmapped.
unsafe impl Send for Stopped {}

impl Heap {
    /// A heap over the system's memory.
    pub(crate) const fn new() -> Self {
        Self::over(None)
    }

    /// A heap over a memory source of the caller's.
    #[cfg(test)]
    pub(crate) fn with_source(source: &'static dyn MemorySource) -> Self {
        Self::over(Some(source))
    }

    const fn over(source: Option<&'static dyn MemorySource>) -> Self {
        Self {
            source,
            map: ArenaMap::new(),
            classes: ClassMap::new(),
            sets: AtomicPtr::new(ptr::null_mut()),
            spare: PoolSet::new(),
            poisons: AtomicU32::new(0),
            parked_sets: AtomicU32::new(0),
            stop: Lock::new(Stopped { newest: None }),
            set_count: AtomicU32::new(0),
            state: Lock::new(HeapState {
                metadata: Metadata::new(),
                arenas: ArenaTable::new(),
                spare_arenas: ptr::null(),
                parked: ptr::null(),
                pools_taken: 0,
                pools_peak: 0,
                arenas_forbidden: 0,
            }),
        }
    }

    /// Where its memory comes from.
    fn source(&self) -> &'static dyn MemorySource {
        self.source.unwrap_or(&SystemMemory)
    }

    /// Runs `body` on what the lock guards.
    #[cfg_attr(target_os = "linux", unsafe(link_section = ".text_pymalloc"))]
    pub(crate) fn with_state<R>(&self, body: impl FnOnce(&mut HeapState, &'static dyn MemorySource) -> R) -> R {
        self.state.lock().with(|state| body(state, self.source()))
    }

    /// Takes a free pool, its class not chosen yet; maps an arena for it if `growth` lets it. `None` when there is none.
    ///
    /// With it, whether its memory will come an OS page at a time, unless it is [faulted in](Self::fault_in).
    #[cfg_attr(target_os = "linux", unsafe(link_section = ".text_pymalloc"))]
    pub(crate) fn take_pool(&self, growth: Growth) -> Option<(PoolRef, bool)> {
        let (pool, by_page, grown_bytes) = self.with_state(|state, source| {
            if !state.arenas.has_free_pool() {
                if !state.may_map(growth) {
                    return None;
                }
                let asks_for_huge = state.arenas.counts().mapped >= self.arenas_before_huge();
                state.map_arena(&self.map, source, asks_for_huge)?;
            }
            let pool = state.arenas.take_pool()?;
            state.pools_taken += 1;
            pool.set_up();
            // SAFETY: metadata is never unmapped.
            let huge = unsafe { pool.arena().as_ref() }.huge.get();
            Some((pool, !huge && !pool.pool().is_touched(), state.note_growth()))
        })?;
        if let Some(bytes) = grown_bytes {
            self.source().let_malloc_keep(bytes);
        }
        Some((pool, by_page))
    }

    /// Arenas that are mapped without asking for huge pages.
    fn arenas_before_huge(&self) -> usize {
        let running = self.set_count().saturating_sub(self.parked_count());
        HUGE_FROM_ARENAS + running / HUGE_THREADS_PER_ARENA
    }

    /// Gives a whole pool, which the caller owns, memory in one call.
    pub(crate) fn fault_in(&self, pool: PoolRef) {
        let source = self.source();
        if POOL_BYTES.is_multiple_of(source.page_bytes())
            && let Some(start) = NonNull::new(pool.pool().start())
        {
            // SAFETY: a pool's memory, whole OS pages.
            unsafe { source.populate(start, POOL_BYTES) };
        }
    }

    /// Takes back pools whose blocks are all home; the caller owned them and their tags are null.
    pub(crate) fn give_pools(&self, pools: impl Iterator<Item = PoolRef>) {
        self.with_state(|state, source| {
            if !state.arenas.give_pools(pools, source) {
                return;
            }
            // Those kept while more arenas were in use are too many, too, when fewer are.
            while let Some(arena) = state.arenas.surplus_arena()
                && state.unmap_arena(arena, &self.map, source)
            {}
        });
    }

    /// Purges parts of pools that the caller owns, in which all blocks are free.
    pub(crate) fn purge_parts(&self, parts: impl Iterator<Item = (PoolRef, u8)>) {
        self.with_state(|state, source| state.arenas.purge_parts(parts, source));
    }

    /// Gives back every free pool's memory and every free arena.
    pub(crate) fn purge_free(&self) {
        self.with_state(|state, source| {
            while let Some(arena) = state.arenas.empty_arena() {
                if !state.unmap_arena(arena, &self.map, source) {
                    break;
                }
            }
            state.arenas.purge_all(source);
        });
    }

    /// Pools ever taken: who asks twice learns whether any was in between.
    pub(crate) fn pools_taken(&self) -> u64 {
        self.with_state(|state, _| state.pools_taken)
    }

    /// Gives some free memory beyond `keep_bytes` back, an arena's worth at most, so that nobody waits long for the
    /// lock; `false` if there is none, or somebody took a pool since [`pools_taken`](Self::pools_taken) was `taken`.
    pub(crate) fn purge_step(&self, keep_bytes: usize, taken: u64) -> bool {
        self.with_state(|state, source| {
            if state.pools_taken != taken {
                return false;
            }
            if state.arenas.empty_count() * ARENA_BYTES > keep_bytes
                && let Some(arena) = state.arenas.empty_arena()
                && state.unmap_arena(arena, &self.map, source)
            {
                return true;
            }
            state.arenas.purge_beyond(keep_bytes / POOL_BYTES, 1, source)
        })
    }

    /// Lets at most so many arenas be mapped from now on; returns whether that many or more are.
    pub(crate) fn set_arena_limit(&self, arenas: usize) -> bool {
        self.with_state(|state, _| {
            state.arenas_forbidden = usize::MAX - arenas;
            state.arenas.counts().mapped >= arenas
        })
    }

    /// Bytes of arenas given back to the OS since the start, whether unmapped or purged.
    pub(crate) fn bytes_given_back(&self) -> usize {
        self.with_state(|state, _| state.arenas.bytes_given_back())
    }

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
        // Relaxed (both): a hint; a set parked just now is found next time. A write rather than a load, because the OS page
        // is written next, and costs a second fault if it is read first.
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

    /// Takes every lock of the heap: afterwards no thread is on a slow path, and none enters one.
    ///
    /// After `true`, undone by [`restart_slow_paths`](Self::restart_slow_paths) on the same thread (or in its forked
    /// child); `false` when the calling thread forks, and so had them stopped before: then don't restart.
    #[must_use]
    pub(crate) fn stop_slow_paths(&self) -> bool {
        if !self.stop.acquire() {
            return false;
        }
        let mut stopped = None;
        loop {
            let mut sets = self.sets().peekable();
            let newest = sets.peek().copied();
            for set in sets.take_while(|&set| Some(set) != stopped) {
                // SAFETY: sets are never unmapped.
                unsafe { set.as_ref() }.door.acquire();
            }
            stopped = newest;
            self.state.acquire();
            if self.sets().next() == stopped {
                // SAFETY: taken above, and nobody else looks at it.
                unsafe { self.stop.with_held(|stop| stop.newest = stopped) };
                return true;
            }
            // A set made in between is not stopped yet.
            // SAFETY: taken just above.
            unsafe { self.state.release() };
        }
    }

    /// Undoes [`stop_slow_paths`](Self::stop_slow_paths).
    ///
    /// # Safety
    /// The calling thread stopped the slow paths, or forked from the one that did.
    pub(crate) unsafe fn restart_slow_paths(&self) {
        // The register's lock comes last but one: until then no set can come that was not stopped. Those that the
        // forking thread itself made meanwhile are newer than the newest stopped.
        // SAFETY: the caller holds all of them.
        unsafe {
            let newest = self.stop.with_held(|stop| stop.newest.take());
            for set in self.sets().skip_while(|&set| Some(set) != newest) {
                set.as_ref().door.release();
            }
            self.state.release();
            self.stop.release();
        }
    }

    /// Runs `body` on what the lock guards, while the calling thread has stopped the slow paths.
    ///
    /// # Safety
    /// The calling thread stopped the slow paths, and no other reference to the state is live.
    pub(crate) unsafe fn with_stopped_state<R>(&self, body: impl FnOnce(&mut HeapState) -> R) -> R {
        // SAFETY: the caller holds the lock.
        unsafe { self.state.with_held(body) }
    }
}

impl HeapState {
    /// The bytes of the pools in use, if they have doubled once more since the start, and are not few.
    ///
    /// A program whose small blocks are in arenas has large ones alone at the end of the C library's heap. When they are free, all
    /// of that goes back to the OS, to be faulted in again soon: small blocks scattered among them would have prevented it. So
    /// it is let keep as much as a program of that size would hardly notice.
    fn note_growth(&mut self) -> Option<usize> {
        let pools = self.arenas.pools_in_use();
        if pools <= self.pools_peak {
            return None;
        }
        self.pools_peak = pools;
        let bytes = pools * POOL_BYTES;
        if pools == MALLOC_KEEPS_FROM_POOLS {
            Some(MALLOC_KEEPS_BYTES_MIN)
        } else {
            (pools.is_power_of_two() && bytes > MALLOC_KEEPS_BYTES_MIN).then_some(bytes)
        }
    }

    /// Whether one arena more may be mapped.
    fn may_map(&self, growth: Growth) -> bool {
        let limit = usize::MAX - self.arenas_forbidden;
        let limit = match growth {
            Growth::No => 0,
            Growth::Soft => limit - limit / SOFT_LIMIT_SHARE,
            Growth::Hard => limit,
        };
        self.arenas.counts().mapped < limit
    }

    fn map_arena(&mut self, map: &ArenaMap, source: &dyn MemorySource, huge: bool) -> Option<()> {
        let arena = match NonNull::new(self.spare_arenas.cast_mut()) {
            Some(spare) => {
                // SAFETY: metadata, not in use.
                self.spare_arenas = unsafe { spare.as_ref() }.next.replace(ptr::null());
                spare
            }
            None => self.metadata.alloc(source)?,
        };
        let mapped = self.map_arena_memory(arena, map, source, huge);
        if mapped.is_none() {
            self.keep_spare(arena);
        }
        mapped
    }

    fn map_arena_memory(
        &mut self,
        arena: NonNull<Arena>,
        map: &ArenaMap,
        source: &dyn MemorySource,
        huge: bool,
    ) -> Option<()> {
        let start = source.map(ARENA_BYTES, ARENA_BYTES)?;
        let address = start.addr().get();
        let leaf = if map.lacks_leaf(address) { self.metadata.alloc(source) } else { None };
        if let Some(leaf) = leaf {
            map.add_leaf(address, leaf);
        }
        // SAFETY: a zeroed slot that nobody knows of yet, and memory mapped just now.
        unsafe { Arena::init(arena, start) };
        if map.set(address, arena.as_ptr()) {
            marks::fresh(start.as_ptr(), ARENA_BYTES);
            if huge {
                // SAFETY: metadata of ours, and memory mapped just now.
                unsafe {
                    arena.as_ref().huge.set(true);
                    source.advise_huge(start, ARENA_BYTES, true);
                }
            }
            self.arenas.add(arena);
            report::arena_mapped();
            return Some(());
        }
        // No memory for a leaf, or an address beyond the map.
        // SAFETY: mapped above, not used.
        unsafe { source.unmap(start, ARENA_BYTES) };
        None
    }

    /// Gives a wholly free arena back to the OS; `false` if the OS refuses.
    fn unmap_arena(&mut self, arena: NonNull<Arena>, map: &ArenaMap, source: &dyn MemorySource) -> bool {
        // SAFETY: metadata is never unmapped.
        let start = unsafe { arena.as_ref() }.start();
        let address = start.addr();
        map.set(address, ptr::null_mut());
        self.arenas.remove(arena);
        marks::gone(start, ARENA_BYTES);
        if self.arenas.unmap(arena, source) {
            self.recycle(arena, source);
            return true;
        }
        marks::fresh(start, ARENA_BYTES);
        map.set(address, arena.as_ptr());
        false
    }

    /// Zeroes the metadata of an arena that is gone, and keeps it for the next.
    fn recycle(&mut self, arena: NonNull<Arena>, source: &dyn MemorySource) {
        let bytes = size_of::<Arena>();
        // SAFETY: no thread uses the metadata of an arena without pools; whole OS pages, since an
        // arena's metadata is larger than one (Metadata::alloc).
        unsafe {
            if !source.purge(arena.cast(), bytes.next_multiple_of(source.page_bytes())) {
                arena.cast::<u8>().write_bytes(0, bytes);
            }
        }
        self.keep_spare(arena);
    }

    fn keep_spare(&mut self, arena: NonNull<Arena>) {
        // SAFETY: metadata, not in use.
        unsafe { arena.as_ref() }.next.set(self.spare_arenas);
        self.spare_arenas = arena.as_ptr();
    }
}
