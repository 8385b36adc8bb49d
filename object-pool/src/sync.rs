//! The atomics, the cell, the lock, the fences and the waiting that the shared parts are written on.
//!
//! `magazine.rs`, `stock/` and `waiters.rs` name nothing but this module and each other, so that the model checker's
//! tests compile the very same files against a twin of it (`tests/loom/sync.rs`).

use core::time::Duration;
use std::thread::sleep;

pub(super) use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
pub(super) use std::sync::{Mutex, MutexGuard};

pub(super) use super::barrier::{fences_work, heavy_fence, light_fence};

/// Objects that a magazine can hold at most.
pub(super) const MAGAZINE_MAX: usize = 64;
/// Objects that a magazine can hold at first; doubled each time that it turns out too small.
pub(super) const MAGAZINE_START: usize = 8;
/// Slow calls with nobody waiting after which a shut gate is opened again.
pub(super) const REOPEN_AFTER: u32 = 64;

/// Looks without a sleep in between: some hundred nanoseconds, which is more than a visit takes whose thread runs.
const SPINS: u32 = 100;
const FIRST_SLEEP: Duration = Duration::from_micros(50);
/// The last sleep is 2 to this power times as long as the first.
const DOUBLINGS: u32 = 4;

/// Waits between two looks for another thread's next few instructions; `looks`: how many there were.
///
/// Soon it sleeps, because the other thread may be waiting for this processor with a lower priority: spinning, or
/// `yield_now`, would then keep from it what it needs to go on.
pub(super) fn pause(looks: u32) {
    match looks.checked_sub(SPINS) {
        None => core::hint::spin_loop(),
        Some(sleeps) => sleep(FIRST_SLEEP * 2_u32.pow(sleeps.min(DOUBLINGS))),
    }
}

/// `core`'s `UnsafeCell` with the access by closure that the model checker's has.
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
