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
//! # Shut
//! A holder may *shut* the lock ([`shut`](Guard::shut)) in place of leaving it: it stays held, by nobody, until
//! somebody [opens](Lock::open) it. Meanwhile there is nothing to be done under it: a knock is not left there, and who
//! would rather not wait ([`acquire_if_open`](Lock::acquire_if_open), [`lock_if_open`](Lock::lock_if_open)) goes away,
//! also from its sleep.
//! - *Nobody inside*: from the shutting to the opening no thread has the lock, so the value does not change.
//!
//! # Fork
//! The thread that forks holds every lock of the heap from the prepare handler to the parent's or child's
//! handler. Other handlers, which run in between, may allocate: so a lock that is held admits the thread that
//! holds it for a fork. Its guard then releases nothing. One that is shut admits nobody.
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
/// Held by nobody.
const SHUT: u32 = 8;

/// What [`Lock::acquire_if_open`] came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Entry {
    Taken,
    /// Let through: the calling thread holds all locks for a fork.
    Admitted,
    /// The lock is shut.
    Refused,
}

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
        match self.state.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => {
                self.owner.set();
                Some(Guard { lock: self, owns: true })
            }
            Err(before) => (before & SHUT == 0 && this_thread_forks()).then_some(Guard { lock: self, owns: false }),
        }
    }

    /// Takes the lock if it is free; else leaves a knock to its holder, who then does what the caller wanted to. If it
    /// is shut, there is nothing to do.
    pub(crate) fn lock_or_knock(&self) -> Option<Guard<'_, T>> {
        // Relaxed: only what to begin with; the compare-exchange decides.
        let mut before = self.state.load(Ordering::Relaxed);
        loop {
            if before & SHUT != 0 {
                return None;
            }
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
        let owns = free || self.acquire_held(true) == Entry::Taken;
        if owns {
            self.owner.set();
        }
        owns
    }

    /// The same, but goes away from a lock that is shut, or is shut while the caller waits.
    #[inline]
    pub(crate) fn acquire_if_open(&self) -> Entry {
        // As in `acquire`.
        let free = self.state.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed).is_ok();
        let entry = if free { Entry::Taken } else { self.acquire_held(false) };
        if entry == Entry::Taken {
            self.owner.set();
        }
        entry
    }

    /// Waits for the lock, but not if it is shut.
    #[inline]
    pub(crate) fn lock_if_open(&self) -> Option<Guard<'_, T>> {
        match self.acquire_if_open() {
            Entry::Refused => None,
            entry => Some(Guard { lock: self, owns: entry == Entry::Taken }),
        }
    }

    /// `Refused` only unless it `is_patient`.
    #[cold]
    fn acquire_held(&self, is_patient: bool) -> Entry {
        if this_thread_forks() {
            // Relaxed: a door that is shut as the slow paths are stopped is opened by the forking thread only.
            let shut = !is_patient && self.state.load(Ordering::Relaxed) & SHUT != 0;
            return if shut { Entry::Refused } else { Entry::Admitted };
        }
        self.owner.refuse_this_thread();
        for _ in 0..LOCK_SPINS {
            // Relaxed: only a hint when to try; the compare-exchange acquires.
            let before = self.state.load(Ordering::Relaxed);
            if before & SHUT != 0 && !is_patient {
                return Entry::Refused;
            }
            if before == FREE && self.state.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                return Entry::Taken;
            }
            spin_loop();
        }
        loop {
            // Acquire: pairs with the Release of `leave` and `open`. Bits are added, because a knock may stand.
            let before = self.state.fetch_or(HELD | AWAITED, Ordering::Acquire);
            if before & HELD == 0 {
                return Entry::Taken;
            }
            if before & SHUT != 0 && !is_patient {
                // It may have been woken in place of another sleeper, which has to go away, too.
                futex_wake(&self.state);
                return Entry::Refused;
            }
            futex_wait(&self.state, before | AWAITED);
        }
    }

    /// Frees a lock that is shut.
    ///
    /// # Safety
    /// The lock is shut, and nobody else opens it.
    pub(crate) unsafe fn open(&self) {
        // Acquire: pairs with the Release of `shut`. Release: pairs with the Acquire of whoever takes the lock next,
        // who so sees what the one that shut it did.
        let before = self.state.swap(FREE, Ordering::AcqRel);
        debug_assert!(before & SHUT != 0, "it was not shut");
        if before & AWAITED != 0 {
            futex_wake(&self.state);
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

    /// Whether it is shut.
    #[cfg(not(pymalloc_loom))]
    pub(crate) fn is_shut(&self) -> bool {
        // Relaxed: a hint, unless something else keeps it as it is.
        self.state.load(Ordering::Relaxed) & SHUT != 0
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

    /// Whether this guard took the lock, rather than being let through during a fork.
    pub(crate) fn owns(&self) -> bool {
        self.owns
    }

    /// Leaves the lock held by nobody, until somebody opens it. What a knock that stands is for was done.
    ///
    /// Only a guard that [took the lock](Self::owns) may.
    pub(crate) fn shut(self) {
        let guard = ManuallyDrop::new(self);
        debug_assert!(guard.owns, "it is another's to leave");
        guard.lock.owner.clear();
        // Release: pairs with the Acquire of `open`.
        let before = guard.lock.state.swap(HELD | SHUT, Ordering::Release);
        if before & AWAITED != 0 {
            // Who goes away wakes the next (`acquire_held`).
            futex_wake(&guard.lock.state);
        }
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
