//! The door of a pool set: entering it, leaving it, and the set as a thread inside has it.

use core::ptr::NonNull;

use crate::heap::Heap;
use crate::heap::door::Door;
use crate::heap::set::{PoolSet, Pools};
use crate::protocols::lock::Guard;

impl PoolSet {
    /// Waits for the door, and runs `body` inside.
    #[inline]
    #[cfg_attr(target_os = "linux", unsafe(link_section = ".text_pymalloc"))]
    pub(crate) fn enter<R>(&self, heap: &Heap, body: impl FnOnce(&mut Inside<'_>) -> R) -> R {
        let mut guard = self.door.lock();
        let result = guard.with(|pools| body(&mut Inside { heap, set: self, pools }));
        if guard.leave() {
            self.knock(heap);
        }
        result
    }

    /// The same for a thread that does not have the set; `None` if the set is bare.
    pub(crate) fn visit<R>(&self, heap: &Heap, body: impl FnOnce(&mut Inside<'_>) -> R) -> Option<R> {
        self.door.lock_if_open().map(|guard| self.run(heap, guard, body))
    }

    /// Runs `body` inside the door, unless another thread is inside, or the set is bare.
    #[cfg_attr(target_os = "linux", unsafe(link_section = ".text_pymalloc"))]
    pub(crate) fn try_enter<R>(&self, heap: &Heap, body: impl FnOnce(&mut Inside<'_>) -> R) -> Option<R> {
        self.door.try_lock().map(|guard| self.run(heap, guard, body))
    }

    fn run<'set, R>(
        &'set self,
        heap: &Heap,
        mut guard: Guard<'set, Pools>,
        body: impl FnOnce(&mut Inside<'_>) -> R,
    ) -> R {
        let result = guard.with(|pools| body(&mut Inside { heap, set: self, pools }));
        if self.leave(heap, guard) {
            self.knock(heap);
        }
        result
    }

    /// Closes the door, and lays the set bare if there is nothing behind it. Returns `true` if the caller has to answer
    /// a knock.
    #[must_use = "a knock is to be answered"]
    pub(super) fn leave<'set>(&'set self, heap: &Heap, mut guard: Guard<'set, Pools>) -> bool {
        let is_bare = self.is_parked() && self.cache_is_empty.get() && guard.with(|pools| pools.owned_count == 0);
        if !is_bare {
            return guard.leave();
        }
        match heap.lay_bare(self, guard) {
            Ok(()) => false,
            Err(guard) => guard.leave(),
        }
    }

    /// Parks the set of a thread that ended: a thread that starts may adopt it, and thieves may steal from it. The
    /// ended thread is the caller, or one that does not exist in this process.
    pub(crate) fn park(set: NonNull<Self>, heap: &Heap) {
        Self::park_with(set, heap, |_| ());
    }

    /// The same, after `before`, which runs inside the same hold of the door.
    pub(crate) fn park_with(set: NonNull<Self>, heap: &Heap, before: impl FnOnce(&mut Inside<'_>)) {
        // SAFETY: sets are never unmapped.
        let this = unsafe { set.as_ref() };
        let mut guard = this.door.lock();
        guard.with(|pools| {
            let mut inside = Inside { heap, set: this, pools };
            before(&mut inside);
            inside.park();
        });
        heap.park(set);
        if this.leave(heap, guard) {
            this.knock(heap);
        }
    }
}

/// A pool set whose door the thread holds.
pub(crate) struct Inside<'door> {
    pub(super) heap: &'door Heap,
    pub(super) set: &'door PoolSet,
    pub(super) pools: &'door mut Pools,
}

impl<'door> Inside<'door> {
    /// Proof that the door is held.
    #[inline(always)]
    pub(crate) fn door(&self) -> Door<'door> {
        // SAFETY: the exclusive reference to the pools, which the door guards, lives as long.
        unsafe { Door::held() }
    }

    /// Bytes of the set's blocks that are not home.
    pub(crate) fn used_bytes(&self) -> usize {
        self.pools.used_bytes
    }
}
