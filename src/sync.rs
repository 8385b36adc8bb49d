//! The atomics, the cell and the waiting that the protocols are written on.
//!
//! `protocols/lock.rs` and `protocols/remote.rs` name nothing but this module, so that the model checker's tests
//! compile the very same files against a twin of it made of `loom`'s types (`tests/loom.rs`).

pub(crate) use core::hint::spin_loop;
#[cfg(any(feature = "hardened", feature = "__raw"))]
pub(crate) use core::sync::atomic::AtomicU8;
pub(crate) use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};

pub(crate) use crate::base::config::LOCK_SPINS;
pub(crate) use crate::os::fork::this_thread_forks;
pub(crate) use crate::os::{futex_wait, futex_wake};

use crate::base::fatal::reentered;
use crate::os::thread_token;

/// The name of a lock's holder; 0 when there is none. (The model checker's does nothing.)
pub(crate) struct Owner(AtomicUsize);

impl Owner {
    pub(crate) const fn new() -> Self {
        Self(AtomicUsize::new(0))
    }

    /// Writes the calling thread's name. It holds the lock.
    #[inline]
    pub(crate) fn set(&self) {
        // Relaxed: only its own thread tells anything by it, and a signal handler there sees it in order.
        self.0.store(thread_token(), Ordering::Relaxed);
    }

    /// Takes the calling thread's name away. It holds the lock.
    #[inline]
    pub(crate) fn clear(&self) {
        // Relaxed: as in `set`.
        self.0.store(0, Ordering::Relaxed);
    }

    /// Aborts if the name is the calling thread's.
    pub(crate) fn refuse_this_thread(&self) {
        // Relaxed: as in `set`.
        if self.0.load(Ordering::Relaxed) == thread_token() {
            reentered();
        }
    }
}

/// `core`'s `UnsafeCell` with the access by closure that the model checker's has.
#[repr(transparent)]
pub(crate) struct UnsafeCell<T>(core::cell::UnsafeCell<T>);

impl<T> UnsafeCell<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(core::cell::UnsafeCell::new(value))
    }

    #[inline(always)]
    pub(crate) fn with_mut<R>(&self, body: impl FnOnce(*mut T) -> R) -> R {
        body(self.0.get())
    }
}
