//! The data that all threads share: the arenas, the metadata, the address map, and the register of pool sets.
//!
//! # Locks
//! A thread takes locks in this order: `stop` → the doors of pool sets → `state`. A thread that holds a door, but not
//! `stop`, takes other doors only by `try_lock` and `lock_or_knock`; a thread that holds `state` takes no other lock.

pub(crate) mod arena;
pub(crate) mod arena_map;
pub(crate) mod arena_table;
pub(crate) mod class_map;
pub(crate) mod door;
pub(crate) mod metadata;
pub(crate) mod pool;
pub(crate) mod purge_batch;
mod register;
pub(crate) mod run;
pub(crate) mod set;
mod state;
mod stop;

use core::ptr::NonNull;

use crate::base::config::{ARENA_BYTES, POOL_BYTES, SOFT_LIMIT_SHARE};
use crate::base::kind::Kind;
use crate::heap::arena::PoolRef;
use crate::heap::arena_map::AddressMap;
use crate::heap::arena_table::commit_pools;
use crate::heap::class_map::ClassMap;
use crate::heap::pool::Pool;
use crate::heap::set::PoolSet;
use crate::os::{self, MemorySource, SystemMemory};
use crate::protocols::lock::Lock;
use crate::protocols::roll::Roll;
use crate::sync::AtomicU32;
pub(crate) use state::HeapState;
pub(crate) use stop::Stopped;

/// A heap: everything that its thread caches share.
///
/// The program has one, `GLOBAL`; tests make more, over memory sources that refuse and count.
pub(crate) struct Heap {
    /// `None` stands for the system's memory: so the program's heap is all zero at the start, and takes no room in
    /// its file.
    source: Option<&'static dyn MemorySource>,
    pub(crate) map: AddressMap,
    /// Classes by address, with the feature `__raw`.
    pub(crate) classes: ClassMap,
    /// The register: every set except the spare one and the bare ones (see `register`).
    sets: Roll<PoolSet>,
    /// The set of threads without a cache; always walked, never parked.
    pub(crate) spare: PoolSet,
    /// Whether all caches are poisoned, new ones included. Written under the heap's lock.
    poisons: AtomicU32,
    /// Parked sets, not adopted yet. Written under the heap's lock, read elsewhere as a hint.
    parked_sets: AtomicU32,
    /// Bare sets among them.
    bare_sets: AtomicU32,
    /// Held by the thread that stops all slow paths.
    stop: Lock<()>,
    state: Lock<HeapState>,
}

/// Whether an arena may be mapped for a request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum MapArena {
    /// No: only mapped arenas serve it.
    No,
    /// Up to the soft limit: beyond it, other threads first give up what they can spare.
    Soft,
    /// Up to the limit.
    Hard,
}

/// How many arenas may be mapped; `usize::MAX` is no limit.
#[derive(Clone, Copy)]
pub(crate) struct ArenaLimits {
    /// From this number on, an arena is mapped only when nothing else is left. It has no meaning above `hard`.
    pub(crate) soft: usize,
    pub(crate) hard: usize,
}

impl ArenaLimits {
    /// The limits for a hard limit, with its default soft limit.
    pub(crate) const fn of_hard(hard: usize) -> Self {
        Self { soft: if hard == usize::MAX { hard } else { hard - hard / SOFT_LIMIT_SHARE }, hard }
    }
}

/// Whether memory of `source` has to be committed before it is used.
#[inline(always)]
pub(crate) fn commits(source: &dyn MemorySource) -> bool {
    os::COMMITS && source.commits()
}

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
            map: AddressMap::new(),
            classes: ClassMap::new(),
            sets: Roll::new(),
            spare: PoolSet::new(),
            poisons: AtomicU32::new(0),
            parked_sets: AtomicU32::new(0),
            bare_sets: AtomicU32::new(0),
            stop: Lock::new(()),
            state: Lock::new(HeapState::new()),
        }
    }

    /// The source of its memory.
    fn source(&self) -> &'static dyn MemorySource {
        self.source.unwrap_or(&SystemMemory)
    }

    /// Runs `body` on the data that the heap's lock guards.
    #[cfg_attr(target_os = "linux", unsafe(link_section = ".text_pymalloc"))]
    pub(crate) fn with_state<R>(&self, body: impl FnOnce(&mut HeapState, &'static dyn MemorySource) -> R) -> R {
        self.state.lock().with(|state| body(state, self.source()))
    }

    /// Whether the locks that are not a set's are free; for the process's last thread.
    pub(crate) fn is_unlocked(&self) -> bool {
        self.stop.try_lock().is_some() && self.state.try_lock().is_some()
    }

    /// Takes a free pool for a class of kind `K`. Maps an arena for it if `wish` allows that; the arena asks for a huge
    /// page if the set that takes the pool `is_dense`. `None` when there is no pool.
    ///
    /// If the set `needs_all` of the pool's memory, and that would come one OS page at a time, one call brings it.
    #[cfg_attr(target_os = "linux", unsafe(link_section = ".text_pymalloc"))]
    pub(crate) fn take_pool<K: Kind>(&self, wish: MapArena, is_dense: bool, needs_all: bool) -> Option<PoolRef> {
        let (pool, fault_in) = self.with_state(|state, source| {
            if !state.arenas.has_free_pool() {
                if !state.may_map(wish) {
                    return None;
                }
                state.map_arena_for::<K>(&self.map, source, is_dense)?;
            }
            let pool = match commits(source) {
                false => state.arenas.take_pool::<K>(source),
                true => state.arenas.take_committed::<K>(source),
            }?;
            state.pools_taken += 1;
            pool.set_up();
            let fault_in = needs_all && !pool.has_memory() && POOL_BYTES.is_multiple_of(source.page_bytes());
            if fault_in {
                pool.set_backed(1, true);
            }
            Some((pool, fault_in))
        })?;
        // Not under the lock, because the kernel clears the memory meanwhile.
        if fault_in && let Some(start) = NonNull::new(pool.pool().start()) {
            // SAFETY: the memory of a pool that the caller owns, whole OS pages.
            unsafe { self.source().populate(start, POOL_BYTES) };
        }
        Some(pool)
    }

    /// Whether memory has to be committed before it is used.
    #[inline(always)]
    pub(crate) fn commits(&self) -> bool {
        commits(self.source())
    }

    /// Commits the purged parts of a pool that the caller owns, if there are any; `false` if the OS refuses.
    pub(crate) fn commit_parts(&self, pool: &Pool) -> bool {
        let pools = pool.any_class().pool_pools();
        let commit = |place| self.with_state(|_, source| commit_pools(place, pools, source));
        pool.purged() == 0 || self.map.pool_of(pool.start().addr()).is_some_and(commit)
    }

    /// Takes back pools whose blocks are all home; the caller owned them and their tags are null.
    pub(crate) fn give_pools(&self, pools: impl Iterator<Item = PoolRef>) {
        self.with_state(|state, source| {
            let any_free = state.arenas.give_pools(pools);
            state.return_surplus(any_free, &self.map, source);
        });
    }

    /// The number of pools whose memory medium blocks wanted again soon after it went back, of late.
    pub(crate) fn recalled(&self) -> usize {
        self.with_state(|state, source| state.arenas.recalled(source))
    }

    /// Purges those parts of the given pools, which the caller owns, in which all blocks are free.
    pub(crate) fn purge_parts(&self, pools: impl Iterator<Item = PoolRef>) {
        self.with_state(|state, source| state.arenas.purge_parts(pools, source));
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
            state.arenas.forget_purges();
        });
    }

    /// The number of pools ever taken. If two calls return the same number, none was taken in between.
    pub(crate) fn pools_taken(&self) -> u64 {
        self.with_state(|state, _| state.pools_taken)
    }

    /// Gives back some free memory beyond `keep_bytes`, at most an arena's worth, so that no thread waits long for the
    /// lock. Returns `false` if there is none, or if a thread took a pool since [`pools_taken`](Self::pools_taken) was
    /// `taken`.
    pub(crate) fn purge_step(&self, keep_bytes: usize, taken: u64) -> bool {
        self.with_state(|state, source| {
            if state.pools_taken != taken {
                return false;
            }
            state.arenas.forget_purges();
            if state.arenas.empty_count() * ARENA_BYTES > keep_bytes
                && let Some(arena) = state.arenas.empty_arena()
                && state.unmap_arena(arena, &self.map, source)
            {
                return true;
            }
            state.arenas.purge_beyond(keep_bytes / POOL_BYTES, 1, source)
        })
    }

    pub(crate) fn arena_limits(&self) -> ArenaLimits {
        self.with_state(|state, _| state.limits())
    }

    /// Sets the limits, and returns whether the arenas reach or exceed the hard one.
    pub(crate) fn set_arena_limits(&self, limits: ArenaLimits) -> bool {
        self.with_state(|state, _| {
            state.set_limits(limits);
            state.arenas.counts().mapped >= limits.hard
        })
    }

    pub(crate) fn set_soft_arena_limit(&self, soft: usize) {
        self.with_state(|state, _| state.set_limits(ArenaLimits { soft, ..state.limits() }));
    }

    /// Bytes of arenas given back to the OS since the start, whether unmapped or purged.
    pub(crate) fn bytes_given_back(&self) -> usize {
        self.with_state(|state, _| state.arenas.bytes_given_back())
    }
}
