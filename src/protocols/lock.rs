//! A lock that never allocates, never poisons, and lets a forking thread through.
//!
//! # Protocol
//! One word. It is 0 while the lock is free. While the lock is held, the bit HELD is set, and with it perhaps AWAITED
//! (a thread may sleep on the lock) and KNOCKED (see below). Without KNOCKED this is mutex 3 of Drepper, "Futexes are
//! tricky".
//! - acquire: `0 → HELD` by compare-exchange, tried again for a few spins. After that, one read-modify-write sets HELD
//!   and AWAITED. If HELD was not set before, the thread has the lock. Otherwise it sleeps while the word stays as it
//!   left it, and tries this again.
//! - release: swap in 0; if AWAITED was set, wake one sleeper. A woken thread sets AWAITED again, so no other sleeper
//!   is forgotten.
//!
//! # Knocks
//! A thread that wants something done under the lock, but must not wait for it, *knocks*
//! ([`lock_or_knock`](Lock::lock_or_knock)): either it gets the lock and does the work, or it sets KNOCKED in the held
//! word. The holder finds KNOCKED in the swap that frees the word ([`leave`](Guard::leave)). It then owes the answer:
//! it knocks in its turn. So a knock may be late, but is not lost:
//! - *Answered*: for each knock one of these holds. It stands in the word of a held lock; or a thread has found it and
//!   is about to knock; or a thread that saw all that the knocker did before has done the work under the lock.
//!
//! At a lock without knocks, holders drop their guards or call [`release`](Lock::release). At a lock with knocks, all
//! holders call `leave`, and none drops its guard.
//!
//! # Shut
//! A holder may *shut* the lock ([`shut`](Guard::shut)) instead of leaving it. The lock then stays held, by no thread,
//! until a thread [opens](Lock::open) it. Meanwhile there is no work to do under it: no knock is left there, and a
//! thread that need not wait ([`acquire_if_open`](Lock::acquire_if_open), [`lock_if_open`](Lock::lock_if_open)) gives
//! up, even if it slept already.
//! - *Nobody inside*: from the shutting to the opening no thread has the lock, so the value does not change.
//!
//! # Fork
//! The thread that forks holds every lock of the heap from the prepare handler to the parent's or child's handler.
//! Other handlers, which run in between, may allocate. So a held lock admits the thread that holds it for a fork; the
//! guard that this thread gets releases nothing. A shut lock admits nobody.
//!
//! # Signals
//! A signal handler that allocates while it interrupts the allocator would wait for its own thread. So the holder's
//! name lies beside the word: it is written after the lock was taken, and cleared before the lock is freed. A thread
//! that is about to wait aborts if the name is its own. A thread sees its own stores in order, so a thread that does
//! not hold the lock never finds its own name there. (Between the change of the word and that of the name, such a
//! handler is not detected, and waits.)

use core::mem::ManuallyDrop;

use crate::sync::{
    AtomicU32, LOCK_SPINS, Ordering, Owner, UnsafeCell, futex_wait, futex_wake, spin_loop, this_thread_forks,
};

const FREE: u32 = 0;
const HELD: u32 = 1;
/// Set only together with HELD, as is the next.
const AWAITED: u32 = 2;
const KNOCKED: u32 = 4;
/// Held by nobody.
const SHUT: u32 = 8;

/// The result of [`Lock::acquire_if_open`].
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

    /// Takes the lock if it is free. If it is held, leaves a knock to the holder, which then does the caller's work. If
    /// it is shut, there is nothing to do.
    pub(crate) fn lock_or_knock(&self) -> Option<Guard<'_, T>> {
        // Relaxed: only the first guess; the compare-exchange decides.
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

    /// As [`acquire`](Self::acquire), but gives up if the lock is shut, or is shut while the caller waits.
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

    /// Waits for a held lock. A patient caller waits even while the lock is shut, and is never `Refused`.
    #[cold]
    fn acquire_held(&self, is_patient: bool) -> Entry {
        if this_thread_forks() {
            // Relaxed: while the slow paths are stopped, only the forking thread opens a shut lock.
            let shut = !is_patient && self.state.load(Ordering::Relaxed) & SHUT != 0;
            return if shut { Entry::Refused } else { Entry::Admitted };
        }
        self.owner.refuse_this_thread();
        for _ in 0..LOCK_SPINS {
            // Relaxed: a hint that shows when to try; the compare-exchange acquires.
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
                // This thread may have been woken in place of another sleeper, which has to give up, too.
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
        // Acquire: pairs with the Release of `shut`. Release: pairs with the Acquire of the thread that takes the lock
        // next, which thus sees what the thread that shut it did.
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
    /// The calling thread holds it (its [`acquire`](Self::acquire) returned `true`), and no guard of the lock is left.
    #[inline]
    #[must_use = "a knock is to be answered"]
    pub(crate) unsafe fn leave(&self) -> bool {
        self.owner.clear();
        // Release: what was done under the lock happens before the next holder's Acquire. Acquire: pairs with the
        // Release of a knock, so that its answer sees what the knocker did before.
        let before = self.state.swap(FREE, Ordering::AcqRel);
        before != HELD && self.look_back(before)
    }

    /// What remains to be done after a lock was freed whose word had more bits than HELD.
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
    #[cfg(not(pymalloc_loom))]
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

    /// Leaves the lock held by no thread, until a thread opens it. The caller has done what any standing knock asks
    /// for.
    ///
    /// Only a guard that [took the lock](Self::owns) may.
    pub(crate) fn shut(self) {
        let guard = ManuallyDrop::new(self);
        debug_assert!(guard.owns, "it is another's to leave");
        guard.lock.owner.clear();
        // Release: pairs with the Acquire of `open`.
        let before = guard.lock.state.swap(HELD | SHUT, Ordering::Release);
        if before & AWAITED != 0 {
            // A thread that gives up wakes the next one (`acquire_held`).
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
