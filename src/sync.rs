//! The atomics, the cell and the waiting functions that the protocols use.
//!
//! `protocols/lock.rs` and `protocols/remote.rs` name nothing but this module. So the model checker's tests can compile
//! the very same files against a twin of this module that is made of `loom`'s types (`tests/loom.rs`).

pub(crate) use core::hint::spin_loop;
#[cfg(any(feature = "hardened", feature = "__raw"))]
pub(crate) use core::sync::atomic::AtomicU8;
pub(crate) use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};

pub(crate) use crate::base::config::LOCK_SPINS;
pub(crate) use crate::os::fork::this_thread_forks;
pub(crate) use crate::os::{futex_wait, futex_wake};

use crate::base::fatal::reentered;
use crate::os::thread_token;

/// The name of a lock's holder; 0 when there is none. (The model checker's twin does nothing.)
pub(crate) struct Owner(AtomicUsize);

impl Owner {
    pub(crate) const fn new() -> Self {
        Self(AtomicUsize::new(0))
    }

    /// Writes the calling thread's name. The thread holds the lock.
    #[inline]
    pub(crate) fn set(&self) {
        // Relaxed: only the thread of that name acts on it, and a signal handler on that thread sees its stores in
        // order.
        self.0.store(thread_token(), Ordering::Relaxed);
    }

    /// Clears the calling thread's name. The thread still holds the lock.
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

/// Loads a word as its only writer, or under the lock that all writers hold: only one value is possible.
pub(crate) fn load_own(word: &AtomicUsize) -> usize {
    // Relaxed: the caller's own store, or one that the lock orders.
    word.load(Ordering::Relaxed)
}

/// `core`'s `UnsafeCell`, with the interface of the model checker's cell: closures get the pointer.
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
