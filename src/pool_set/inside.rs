//! The door of a pool set, and what a thread holds behind it.

use crate::heap::Heap;
use crate::heap::door::Door;
use crate::heap::set::{PoolSet, Pools};

impl PoolSet {
    /// Opens the door, waiting for it, and runs `body`.
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

    /// Opens the door and runs `body`, unless somebody else is inside.
    #[cfg_attr(target_os = "linux", unsafe(link_section = ".text_pymalloc"))]
    pub(crate) fn try_enter<R>(&self, heap: &Heap, body: impl FnOnce(&mut Inside<'_>) -> R) -> Option<R> {
        let mut guard = self.door.try_lock()?;
        let result = guard.with(|pools| body(&mut Inside { heap, set: self, pools }));
        if guard.leave() {
            self.knock(heap);
        }
        Some(result)
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
        // SAFETY: the exclusive reference to what the door guards lives as long.
        unsafe { Door::held() }
    }

    /// Bytes of the set's blocks that are not home.
    pub(crate) fn used_bytes(&self) -> usize {
        self.pools.used_bytes
    }
}
