//! One thread calls another to stand still: the word between the two.
//!
//! # Protocol
//! A summons is free, or belongs to one call of one thread. Its word is the call's number and a phase:
//! - *call*, by the caller: `Free → Called`; then it tells the other thread of it (by a signal with the number).
//! - *arrive*, by the called thread: `Called → Arriving` by compare-exchange. Then it writes its answer, and then
//!   `Arriving → Standing`. It wakes the caller, and sleeps while the word stays the same.
//! - *abandon*, by a caller that no longer waits: `Called → Free` by compare-exchange. If that fails, the called thread
//!   is arriving or stands. Then the caller waits until it stands, for a few of its instructions.
//! - *dismiss*, by the caller: `Standing → Free`, and it wakes the called thread.
//!
//! # Invariants
//! - *Standing*: from `Standing` to the dismissal, the called thread does nothing. Everything that the called thread
//!   did before happens before everything that the caller does meanwhile. All of that happens before everything that
//!   the called thread does afterwards.
//! - *Late*: a thread that comes after its call was abandoned finds another word (numbers of calls differ), and touches
//!   nothing, even if the same summons has called another thread meanwhile.
//! - *Nobody is forgotten*: a sleeping thread sleeps on a word that another thread changes, and then that thread wakes
//!   it.

#[cfg(not(pymalloc_loom))]
use core::time::Duration;

#[cfg(not(pymalloc_loom))]
use crate::os::futex_wait_for;
use crate::sync::{AtomicU32, Ordering, UnsafeCell, futex_wait, futex_wake};

const PHASE_BITS: u32 = 2;
const FREE: u32 = 0;
const CALLED: u32 = 1;
const ARRIVING: u32 = 2;
const STANDING: u32 = 3;

/// The number of a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Call(u32);

impl Call {
    /// The call with the lower 30 bits of this number.
    pub(crate) const fn of_number(number: u32) -> Self {
        Self(number & (u32::MAX >> PHASE_BITS))
    }

    /// Its number.
    pub(crate) const fn number(self) -> u32 {
        self.0
    }

    const fn word(self, phase: u32) -> u32 {
        self.0 << PHASE_BITS | phase
    }
}

/// A place for one called thread, and its answer.
pub(crate) struct Summons<T> {
    word: AtomicU32,
    said: UnsafeCell<T>,
}

// SAFETY: the one thread that is arriving writes `said`, and the caller reads it once that thread stands.
unsafe impl<T: Send> Sync for Summons<T> {}

impl<T: Copy> Summons<T> {
    #[cfg(pymalloc_loom)]
    pub(crate) fn new(value: T) -> Self {
        Self { word: AtomicU32::new(FREE), said: UnsafeCell::new(value) }
    }

    /// Begins a call. The summons is free.
    pub(crate) fn call(&self, call: Call) {
        // Release: pairs with the Acquire in `arrive`; the caller's last look at `said` is over.
        self.word.store(call.word(CALLED), Ordering::Release);
    }

    /// Answers a call, and stands still until the dismissal. Does nothing if the call was abandoned.
    pub(crate) fn arrive(&self, call: Call, said: T) {
        // Acquire: pairs with the Release in `call`. Relaxed on failure: it is the word of another call, or of none.
        let arrives =
            self.word.compare_exchange(call.word(CALLED), call.word(ARRIVING), Ordering::Acquire, Ordering::Relaxed);
        if arrives.is_err() {
            return;
        }
        // SAFETY: only one thread arrives at a call, and the caller does not look before that thread stands.
        self.said.with_mut(|place| unsafe { place.write(said) });
        let standing = call.word(STANDING);
        // Release: pairs with the Acquire in `stands`.
        self.word.store(standing, Ordering::Release);
        futex_wake(&self.word);
        // Acquire: pairs with the Release in `dismiss`.
        while self.word.load(Ordering::Acquire) == standing {
            futex_wait(&self.word, standing);
        }
    }

    /// The called thread's answer, if it stands.
    pub(crate) fn stands(&self, call: Call) -> Option<T> {
        // Acquire: pairs with the Release in `arrive`.
        let stands = self.word.load(Ordering::Acquire) == call.word(STANDING);
        // SAFETY: the answer was written before, and no thread writes while the called one stands.
        stands.then(|| self.said.with_mut(|place| unsafe { place.read() }))
    }

    /// Waits until the called thread stands, or until `time` is over; may return early.
    #[cfg(not(pymalloc_loom))]
    pub(crate) fn wait_for(&self, call: Call, time: Duration) {
        // Relaxed: the waiting thread looks again.
        let word = self.word.load(Ordering::Relaxed);
        if word != call.word(STANDING) {
            futex_wait_for(&self.word, word, time);
        }
    }

    /// Gives up a call. If it is too late for that, returns the answer of the called thread, which stands.
    pub(crate) fn abandon(&self, call: Call) -> Option<T> {
        // Relaxed (both): on success, nothing was written for this call; on failure, `stands` orders what was.
        let given_up =
            self.word.compare_exchange(call.word(CALLED), FREE, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if given_up {
            return None;
        }
        loop {
            if let Some(said) = self.stands(call) {
                return Some(said);
            }
            futex_wait(&self.word, call.word(ARRIVING));
        }
    }

    /// Lets the standing thread go on.
    pub(crate) fn dismiss(&self) {
        // Release: pairs with the Acquire in `arrive`.
        self.word.store(FREE, Ordering::Release);
        futex_wake(&self.word);
    }
}
