//! A lock that never allocates, never poisons, and lets a forking thread through.
//!
//! # Protocol
//! One word: 0 free, 1 held, 2 held and a thread may sleep on it (Drepper, "Futexes are tricky", mutex 3).
//! - acquire: `0 → 1` by compare-exchange, tried again for a few spins; else swap in 2 until the swap returns 0,
//!   sleeping while the word is 2.
//! - release: swap in 0; if it was 2, wake one sleeper. A woken thread swaps in 2 again, so no other sleeper is
//!   forgotten.
//!
//! # Fork
//! The thread that forks holds every lock of the heap from the prepare handler to the parent's or child's
//! handler. Other handlers, which run in between, may allocate: so a lock that is held admits the thread that
//! holds it for a fork. Its guard then releases nothing.

use crate::sync::{AtomicU32, LOCK_SPINS, Ordering, UnsafeCell, futex_wait, futex_wake, spin_loop, this_thread_forks};

const FREE: u32 = 0;
const HELD: u32 = 1;
const AWAITED: u32 = 2;

/// A value that one thread at a time may touch.
pub(crate) struct Lock<T> {
    state: AtomicU32,
    value: UnsafeCell<T>,
}

// SAFETY: the lock hands the value to one thread at a time (module docs); `T: Send` lets it move between them.
unsafe impl<T: Send> Sync for Lock<T> {}

/// The right to touch the value of a [`Lock`], until dropped.
pub(crate) struct Guard<'lock, T> {
    lock: &'lock Lock<T>,
    /// Whether this guard took the lock, rather than being let through during a fork.
    owns: bool,
}

impl<T> Lock<T> {
    /// A free lock around `value`.
    #[cfg(not(pymalloc_loom))]
    pub(crate) const fn new(value: T) -> Self {
        Self { state: AtomicU32::new(FREE), value: UnsafeCell::new(value) }
    }

    /// A free lock around `value` (the model checker's types can't be made in a constant).
    #[cfg(pymalloc_loom)]
    pub(crate) fn new(value: T) -> Self {
        Self { state: AtomicU32::new(FREE), value: UnsafeCell::new(value) }
    }

    /// Waits for the lock.
    #[inline]
    pub(crate) fn lock(&self) -> Guard<'_, T> {
        let owns = self.acquire();
        Guard { lock: self, owns }
    }

    /// Takes the lock if it is free.
    pub(crate) fn try_lock(&self) -> Option<Guard<'_, T>> {
        // Acquire: pairs with the Release of `release`.
        let free = self.state.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed).is_ok();
        (free || this_thread_forks()).then(|| Guard { lock: self, owns: free })
    }

    /// Takes the lock; `false` if the calling thread was let through because it holds all locks for a fork.
    #[inline]
    pub(crate) fn acquire(&self) -> bool {
        // Acquire: pairs with the Release of `release`. Relaxed on failure: nothing was taken.
        match self.state.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => true,
            Err(_) => self.acquire_held(),
        }
    }

    #[cold]
    fn acquire_held(&self) -> bool {
        if this_thread_forks() {
            return false;
        }
        for _ in 0..LOCK_SPINS {
            // Relaxed: only a hint when to try; the compare-exchange acquires.
            if self.state.load(Ordering::Relaxed) == FREE
                && self.state.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed).is_ok()
            {
                return true;
            }
            spin_loop();
        }
        // Acquire: pairs with the Release of `release`.
        while self.state.swap(AWAITED, Ordering::Acquire) != FREE {
            futex_wait(&self.state, AWAITED);
        }
        true
    }

    /// Frees the lock.
    ///
    /// # Safety
    /// The calling thread holds it (by [`acquire`](Self::acquire) that returned `true`), and no guard of it is left.
    #[inline]
    pub(crate) unsafe fn release(&self) {
        // Release: what was done under the lock happens before the next holder's Acquire.
        if self.state.swap(FREE, Ordering::Release) == AWAITED {
            futex_wake(&self.state);
        }
    }

    /// Whether a thread may sleep on it.
    #[cfg(all(test, feature = "hardened", not(pymalloc_loom)))]
    pub(crate) fn is_awaited(&self) -> bool {
        // Relaxed: a hint.
        self.state.load(Ordering::Relaxed) == AWAITED
    }

    /// Runs `body` on the value, for a thread that took the lock by [`acquire`](Self::acquire).
    ///
    /// # Safety
    /// The calling thread holds the lock, and no other reference to the value is live.
    pub(crate) unsafe fn with_held<R>(&self, body: impl FnOnce(&mut T) -> R) -> R {
        // SAFETY: the caller is the only one to touch the value.
        self.value.with_mut(|value| body(unsafe { &mut *value }))
    }
}

impl<T> Guard<'_, T> {
    /// Runs `body` on the value.
    #[inline]
    pub(crate) fn with<R>(&mut self, body: impl FnOnce(&mut T) -> R) -> R {
        // SAFETY: the guard proves that this thread is the only one to touch the value.
        self.lock.value.with_mut(|value| body(unsafe { &mut *value }))
    }
}

impl<T> Drop for Guard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        if self.owns {
            // SAFETY: this guard took the lock and is its last use.
            unsafe { self.lock.release() }
        }
    }
}
