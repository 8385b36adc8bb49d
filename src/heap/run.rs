//! Several pools of an arena, side by side. A larger medium class uses them as one pool; a *run* of them is one block
//! of the program's.
//!
//! A run has no owner. A thread allocates, frees or resizes it under the heap's lock, and no thread's cache holds
//! anything of it.
//!
//! # Invariants
//! - *First*: the first pool's descriptor is for all. The others are behind it, and have no touched bytes of their own.
//! - *Run tag*: every pool of a run has the tag [`RUN_TAG`], which names no set and no class. While a run's memory goes
//!   back to the OS, or is cleared, the tag of its first pool is null. So if a run is freed twice, the second free is found, whenever
//!   it comes.

use core::ptr::{self, NonNull};

use super::{Heap, HeapState, MapArena, commits};
use crate::base::config::POOL_BYTES;
use crate::base::fatal::Impossible;
use crate::base::kind::Medium;
use crate::heap::arena::PoolRef;
use crate::heap::arena_table::commit_pools;
use crate::heap::pool::{Block, State};
use crate::heap::set::{RUN_TAG, tag_any_class};
use crate::os::{MemoryRange, MemorySource};
use crate::sync::Ordering;

/// The number of pools of a run, and their alignment in pools: a power of two, at most the pools of an arena.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RunSize {
    pub(crate) pools: usize,
    pub(crate) align_pools: usize,
}

impl Heap {
    /// Takes free pools side by side, as `size` asks for, and joins them to one. Maps an arena for them if `wish`
    /// allows that. `prepare` runs under the heap's lock and says what they are.
    pub(crate) fn take_run(
        &self,
        wish: MapArena,
        is_dense: bool,
        size: RunSize,
        prepare: impl FnOnce(PoolRef),
    ) -> Option<PoolRef> {
        self.with_state(|state, source| {
            let first = match state.arenas.take_run(size.pools, size.align_pools, source) {
                Some(first) => first,
                None if state.may_map(wish) => {
                    state.map_arena_for::<Medium>(&self.map, source, is_dense)?;
                    state.arenas.take_run(size.pools, size.align_pools, source)?
                }
                None => return None,
            };
            if commits(source) && !first.run(size.pools).all(|pool| has_all(&pool) || commit_pools(pool, 1, source)) {
                state.arenas.give_run(first, size.pools);
                return None;
            }
            state.pools_taken += 1;
            first.set_up();
            first.join(size.pools);
            prepare(first);
            Some(first)
        })
    }

    /// Takes back several pools that are one, and that no other thread knows any more. If the heap would keep too much
    /// free memory, the memory of these pools goes back to the OS first, without the lock.
    pub(crate) fn give_run(&self, first: PoolRef, pools: usize) {
        let _ = self.give_run_if(first, pools, false, || Ok(()));
    }

    /// The same, if `check`, which runs under the heap's lock, finds no fault. If `clears` is set, the memory is zero
    /// afterwards; clearing it, too, needs no lock.
    fn give_run_if(
        &self,
        first: PoolRef,
        pools: usize,
        clears: bool,
        check: impl FnOnce() -> Result<(), Impossible>,
    ) -> Result<(), Impossible> {
        let is_surplus = self.with_state(|state, source| {
            check()?;
            let is_surplus = state.arenas.is_surplus(first, pools, source);
            if is_surplus || clears {
                // Relaxed: under the heap's lock, or no block of the pool is outside.
                first.tag().store(ptr::null_mut(), Ordering::Relaxed);
            } else {
                self.take_back(state, (first, pools), false, source);
            }
            Ok(is_surplus)
        })?;
        if !is_surplus && !clears {
            return Ok(());
        }
        if clears {
            // Before a purge: if the OS refuses that, some of the memory may be gone.
            // SAFETY: the pools are the caller's, and hold nothing.
            unsafe { first.start().write_bytes(0, pools * POOL_BYTES) };
        }
        // SAFETY: as above.
        let is_purged = is_surplus && unsafe { self.purge_run(first, pools) };
        self.with_state(|state, source| {
            if is_purged {
                first.pool().set_untouched(0);
                state.arenas.note_purged_run(first, pools, source);
            }
            // If the OS refused, some of the memory may be gone. Where memory has to be committed, all of it is
            // committed anew.
            self.take_back(state, (first, pools), is_surplus && !is_purged && commits(source), source);
        });
        Ok(())
    }

    /// Gives the memory of pools side by side back to the OS; `false` if it refuses.
    ///
    /// # Safety
    /// The pools are the caller's, and hold nothing.
    unsafe fn purge_run(&self, first: PoolRef, pools: usize) -> bool {
        let bytes = pools * POOL_BYTES;
        bytes.is_multiple_of(self.source().page_bytes())
            // SAFETY: the caller's promise is the same.
            && unsafe { self.source().decommit_each(&[MemoryRange { start: first.start(), bytes }]) == 1 }
    }

    fn take_back(
        &self,
        state: &mut HeapState,
        (first, pools): (PoolRef, usize),
        is_in_doubt: bool,
        source: &dyn MemorySource,
    ) {
        first.split(pools);
        for pool in first.run(pools) {
            if is_in_doubt {
                pool.pool().add_purged(u8::MAX);
            }
            // Relaxed: no block of the pool is outside, so no thread reads the tag.
            pool.tag().store(ptr::null_mut(), Ordering::Relaxed);
        }
        let any_free = state.arenas.give_run(first, pools);
        state.return_surplus(any_free, &self.map, source);
    }

    /// Takes a run for the program, and tells whether it is known to be zero.
    pub(crate) fn alloc_run(&self, wish: MapArena, size: RunSize) -> Option<Block> {
        let mut zeroed = false;
        let first = self.take_run(wish, false, size, |first| {
            zeroed = !first.pool().is_touched();
            make_run(first, size.pools);
        })?;
        NonNull::new(first.start()).map(|start| Block { start, zeroed })
    }

    /// Takes back a run of `pools` pools.
    ///
    /// # Errors
    /// What is impossible about it.
    pub(crate) fn free_run(&self, start: usize, pools: usize) -> Result<(), Impossible> {
        let first = self.map.pool_of(start).ok_or(Impossible::NoArena)?;
        // `hardened`: free memory is zero (*Clean*, in `cache/hardened`), whatever it serves next.
        let clears = cfg!(feature = "hardened");
        self.give_run_if(first, pools, clears, || check_run(first, start, Some(pools)).map(drop))
    }

    /// Resizes a run of `pools` pools to `wanted` without moving it, and returns whether that was possible: a run can
    /// only grow into free pools behind it.
    ///
    /// # Errors
    /// What is impossible about the run.
    pub(crate) fn resize_run(&self, start: usize, pools: usize, wanted: usize) -> Result<bool, Impossible> {
        let first = self.map.pool_of(start).ok_or(Impossible::NoArena)?;
        let is_resized = self.with_state(|state, source| {
            check_run(first, start, Some(pools))?;
            if wanted > pools {
                // Where memory has to be committed, the run moves instead.
                if commits(source) || !state.arenas.extend_run(first, pools, wanted - pools, source) {
                    return Ok(false);
                }
                state.pools_taken += 1;
                let rest = PoolRef::at_index(first.arena(), first.index() + pools);
                rest.join(wanted - pools);
                rest.pool().set_untouched(0);
            } else if wanted < pools {
                // The rest becomes a run of its own, which is freed below like any other.
                let rest = PoolRef::at_index(first.arena(), first.index() + wanted);
                rest.set_up();
                make_run(rest, pools - wanted);
            }
            make_run(first, wanted);
            Ok(true)
        })?;
        if wanted < pools {
            self.free_run(start + wanted * POOL_BYTES, pools - wanted)?;
        }
        Ok(is_resized)
    }

    /// The number of pools of the run that starts at `start` and is in the program's hands.
    ///
    /// # Errors
    /// What is impossible about it.
    #[cfg(feature = "__raw")]
    pub(crate) fn run_pools(&self, start: usize) -> Result<usize, Impossible> {
        let first = self.map.pool_of(start).ok_or(Impossible::NoArena)?;
        self.with_state(|_, _| check_run(first, start, None))
    }
}

/// Whether a free pool has all of its memory, where that has to be committed.
fn has_all(pool: &PoolRef) -> bool {
    pool.has_memory() && pool.pool().purged() == 0
}

/// Makes a run of pools that are one. From now on, any byte of it may be other than zero.
fn make_run(first: PoolRef, pools: usize) {
    first.pool().set_run(pools);
    first.pool().set_touched_bytes(pools * POOL_BYTES);
    // Relaxed: a thread that reads the tag holds the run, which came to it after this.
    first.run(pools).for_each(|pool| pool.tag().store(RUN_TAG, Ordering::Relaxed));
}

/// The length of the run that starts at `start` and is in the program's hands. If the caller knows the length, `pools`
/// says it, and another one is an error. Under the heap's lock.
fn check_run(first: PoolRef, start: usize, pools: Option<usize>) -> Result<usize, Impossible> {
    // Relaxed: under the heap's lock. If the pool is no run, the tag only chooses the message.
    let tag = first.tag().load(Ordering::Relaxed);
    if tag.is_null() {
        return Err(Impossible::NoPool);
    }
    if tag != RUN_TAG {
        return Err(if tag_any_class(tag).is_some() { Impossible::OtherClass } else { Impossible::NoPool });
    }
    if first.start().addr() != start || first.pool().state() != State::Run {
        return Err(Impossible::NoBlockStart);
    }
    let length = first.pool().used() as usize;
    if pools.is_some_and(|pools| pools != length) { Err(Impossible::OtherClass) } else { Ok(length) }
}
