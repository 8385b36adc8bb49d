//! The atomics, the cell, the lock, the fences and the waiting function that the shared parts use.
//!
//! `magazine.rs`, `stock/` and `waiters.rs` name nothing but this module and each other. So the model checker's tests
//! can compile the very same files against a twin of this module (`tests/loom/sync.rs`).

use core::time::Duration;
use std::thread::sleep;

pub(super) use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
pub(super) use std::sync::{Mutex, MutexGuard};

pub(super) use super::barrier::{fences_work, heavy_fence, light_fence};

/// Most objects that a magazine can hold.
pub(super) const MAGAZINE_MAX: usize = 64;
/// Objects that a new magazine can hold; doubled each time that this turns out too small.
pub(super) const MAGAZINE_START: usize = 8;
/// A shut gate is opened again after this many slow calls during which no thread waited.
pub(super) const REOPEN_AFTER: u32 = 64;

/// Looks before the first sleep. They take a few hundred nanoseconds: longer than the visit of a running thread.
const SPINS: u32 = 100;
const FIRST_SLEEP: Duration = Duration::from_micros(50);
/// The last sleep is 2 to this power times as long as the first.
const DOUBLINGS: u32 = 4;

/// Waits a little between two looks at another thread's progress; `looks` is the number of looks so far.
///
/// It soon sleeps, because the other thread may have a lower priority and be waiting for this processor. Spinning, or
/// `yield_now`, would then keep the processor from it.
pub(super) fn pause(looks: u32) {
    match looks.checked_sub(SPINS) {
        None => core::hint::spin_loop(),
        Some(sleeps) => sleep(FIRST_SLEEP * 2_u32.pow(sleeps.min(DOUBLINGS))),
    }
}

/// `core`'s `UnsafeCell`, with the interface of the model checker's cell: closures get the pointer.
#[repr(transparent)]
pub(super) struct UnsafeCell<T>(core::cell::UnsafeCell<T>);

impl<T> UnsafeCell<T> {
    pub(super) const fn new(value: T) -> Self {
        Self(core::cell::UnsafeCell::new(value))
    }

    #[inline(always)]
    pub(super) fn with_mut<R>(&self, body: impl FnOnce(*mut T) -> R) -> R {
        body(self.0.get())
    }
}
