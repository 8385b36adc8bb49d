//! The door of a pool set, and what a thread holds behind it.

use crate::base::config::{DEPOT_BYTES_MAX, DEPOTS_BUDGET_BYTES, POOL_BYTES, SWEEP_ARM_SHARE, SWEEP_MIN_BYTES};
use crate::heap::Heap;
use crate::heap::set::{PoolSet, Pools};

impl PoolSet {
    /// Opens the door, waiting for it, and runs `body`.
    #[inline]
    #[cfg_attr(target_os = "linux", unsafe(link_section = ".text_pymalloc"))]
    pub(crate) fn enter<R>(&self, heap: &Heap, body: impl FnOnce(&mut Inside<'_>) -> R) -> R {
        self.door.lock().with(|pools| body(&mut Inside { heap, set: self, pools }))
    }

    /// Opens the door and runs `body`, unless somebody else is inside.
    #[cfg_attr(target_os = "linux", unsafe(link_section = ".text_pymalloc"))]
    pub(crate) fn try_enter<R>(&self, heap: &Heap, body: impl FnOnce(&mut Inside<'_>) -> R) -> Option<R> {
        let mut guard = self.door.try_lock()?;
        Some(guard.with(|pools| body(&mut Inside { heap, set: self, pools })))
    }
}

/// A pool set whose door the thread holds.
pub(crate) struct Inside<'door> {
    pub(super) heap: &'door Heap,
    pub(super) set: &'door PoolSet,
    pub(super) pools: &'door mut Pools,
}

impl Inside<'_> {
    /// Bytes of the set's blocks that are not home.
    pub(crate) fn used_bytes(&self) -> usize {
        self.pools.used_bytes
    }

    /// Bytes of blocks that the thread may keep in depots: its share of a budget, but nothing of a large heap of which
    /// little is left, where each of them may hold an OS page that a sweep could give back.
    pub(crate) fn depot_bytes_max(&self) -> usize {
        let owned_bytes = self.pools.owned_count * POOL_BYTES;
        if owned_bytes >= SWEEP_MIN_BYTES && self.pools.used_bytes < owned_bytes / SWEEP_ARM_SHARE {
            return 0;
        }
        (DEPOTS_BUDGET_BYTES / (self.heap.running_count() + 1)).min(DEPOT_BYTES_MAX)
    }
}
