//! A lock that never allocates, never poisons, and lets a forking thread through.
//!
//! # Protocol
//! One word, 0 while the lock is free; else the bit HELD, and beside it AWAITED (a thread may sleep on the lock) and
//! KNOCKED (see below). Without KNOCKED this is mutex 3 of Drepper, "Futexes are tricky".
//! - acquire: `0 → HELD` by compare-exchange, tried again for a few spins; else HELD and AWAITED are set by one
//!   read-modify-write until HELD was not set before, and the thread sleeps while the word stays as it left it.
//! - release: swap in 0; if AWAITED was set, wake one sleeper. A woken thread sets AWAITED again, so no other sleeper
//!   is forgotten.
//!
//! # Knocks
//! A thread that wants something done under the lock, but must not wait for it, *knocks*
//! ([`lock_or_knock`](Lock::lock_or_knock)): either it gets the lock and does it, or it sets KNOCKED in the word of the
//! holder. The holder learns of it by the swap that frees the word ([`leave`](Guard::leave)), and then owes the answer:
//! it knocks in its turn. So a knock is late at worst:
//! - *Answered*: a knock stands in the word of a lock that is held; or a thread has found it and is about to knock; or
//!   what it was for was done under the lock by a thread that saw all that the knocker did before.
//!
//! Where nobody knocks, guards are dropped and [`release`](Lock::release) is used; at a lock with knocks all holders
//! leave, and none drops its guard.
//!
//! # Fork
//! The thread that forks holds every lock of the heap from the prepare handler to the parent's or child's
//! handler. Other handlers, which run in between, may allocate: so a lock that is held admits the thread that
//! holds it for a fork. Its guard then releases nothing.
//!
//! # Signals
//! A handler that allocates where it interrupted the allocator would wait for its own thread. Beside the word is the
//! holder's name, written after the lock was taken and before it is freed. Before a thread waits, it looks whether the
//! name is its own, and aborts if it is. A thread sees its own stores in order: so no thread finds its name there
//! that does not hold the lock. (Between the word's change and the name's, the handler is not seen, and waits.)

use core::mem::ManuallyDrop;

use crate::sync::{
    AtomicU32, LOCK_SPINS, Ordering, Owner, UnsafeCell, futex_wait, futex_wake, spin_loop, this_thread_forks,
};

const FREE: u32 = 0;
const HELD: u32 = 1;
/// Beside HELD, as the next.
const AWAITED: u32 = 2;
const KNOCKED: u32 = 4;

/// A value that one thread at a time may touch.
pub(crate) struct Lock<T> {
    state: AtomicU32,
    owner: Owner,
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
        Self { state: AtomicU32::new(FREE), owner: Owner::new(), value: UnsafeCell::new(value) }
    }

    /// A free lock around `value` (the model checker's types can't be made in a constant).
    #[cfg(pymalloc_loom)]
    pub(crate) fn new(value: T) -> Self {
        Self { state: AtomicU32::new(FREE), owner: Owner::new(), value: UnsafeCell::new(value) }
    }

    /// Waits for the lock.
    #[inline]
    pub(crate) fn lock(&self) -> Guard<'_, T> {
        let owns = self.acquire();
        Guard { lock: self, owns }
    }

    /// Takes the lock if it is free.
    pub(crate) fn try_lock(&self) -> Option<Guard<'_, T>> {
        // Acquire: pairs with the Release of `leave`.
        let free = self.state.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed).is_ok();
        if free {
            self.owner.set();
        }
        (free || this_thread_forks()).then(|| Guard { lock: self, owns: free })
    }

    /// Takes the lock if it is free; else leaves a knock to its holder, who then does what the caller wanted to.
    pub(crate) fn lock_or_knock(&self) -> Option<Guard<'_, T>> {
        // Relaxed: only what to begin with; the compare-exchange decides.
        let mut before = self.state.load(Ordering::Relaxed);
        loop {
            if before & HELD != 0 && this_thread_forks() {
                return Some(Guard { lock: self, owns: false });
            }
            // A knock that stands already is written again: the holder may have found it by now.
            let after = if before == FREE { HELD } else { before | KNOCKED };
            // Acquire, when it was free: pairs with the Release of `leave`. Release, when it was not: what the knocker
            // did before happens before the holder's Acquire in `leave`. Relaxed on failure: nothing was done.
            match self.state.compare_exchange_weak(before, after, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(FREE) => {
                    self.owner.set();
                    return Some(Guard { lock: self, owns: true });
                }
                Ok(_) => return None,
                Err(now) => before = now,
            }
        }
    }

    /// Takes the lock; `false` if the calling thread was let through because it holds all locks for a fork.
    #[inline]
    pub(crate) fn acquire(&self) -> bool {
        // Acquire: pairs with the Release of `leave`. Relaxed on failure: nothing was taken.
        let free = self.state.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed).is_ok();
        let owns = free || self.acquire_held();
        if owns {
            self.owner.set();
        }
        owns
    }

    #[cold]
    fn acquire_held(&self) -> bool {
        if this_thread_forks() {
            return false;
        }
        self.owner.refuse_this_thread();
        for _ in 0..LOCK_SPINS {
            // Relaxed: only a hint when to try; the compare-exchange acquires.
            if self.state.load(Ordering::Relaxed) == FREE
                && self.state.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed).is_ok()
            {
                return true;
            }
            spin_loop();
        }
        loop {
            // Acquire: pairs with the Release of `leave`. Bits are added, because a knock may stand.
            let before = self.state.fetch_or(HELD | AWAITED, Ordering::Acquire);
            if before & HELD == 0 {
                return true;
            }
            futex_wait(&self.state, before | AWAITED);
        }
    }

    /// Frees a lock at which nobody knocks.
    ///
    /// # Safety
    /// As for [`leave`](Self::leave).
    #[inline]
    pub(crate) unsafe fn release(&self) {
        // SAFETY: the caller's promise is the same.
        let knocked = unsafe { self.leave() };
        debug_assert!(!knocked, "a knock is lost");
    }

    /// Frees the lock; `true` if somebody knocked meanwhile: the caller owes the answer (*Answered*).
    ///
    /// # Safety
    /// The calling thread holds it (by [`acquire`](Self::acquire) that returned `true`), and no guard of it is left.
    #[inline]
    #[must_use = "a knock is to be answered"]
    pub(crate) unsafe fn leave(&self) -> bool {
        self.owner.clear();
        // Release: what was done under the lock happens before the next holder's Acquire. Acquire: pairs with the
        // Release of a knock, so that its answer sees what the knocker did before.
        let before = self.state.swap(FREE, Ordering::AcqRel);
        before != HELD && self.look_back(before)
    }

    /// What is to be done once the lock is free, whose word was not plainly held.
    #[cold]
    fn look_back(&self, before: u32) -> bool {
        if before & AWAITED != 0 {
            futex_wake(&self.state);
        }
        before & KNOCKED != 0
    }

    /// Whether a thread may sleep on it.
    #[cfg(all(test, not(pymalloc_loom)))]
    pub(crate) fn is_awaited(&self) -> bool {
        // Relaxed: a hint.
        self.state.load(Ordering::Relaxed) & AWAITED != 0
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

    /// Frees the lock; `true` if somebody knocked meanwhile: the caller owes the answer (*Answered*).
    #[inline]
    #[must_use = "a knock is to be answered"]
    pub(crate) fn leave(self) -> bool {
        let guard = ManuallyDrop::new(self);
        // SAFETY: the guard took the lock, and this is its last use.
        guard.owns && unsafe { guard.lock.leave() }
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
