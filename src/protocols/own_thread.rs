//! The allocator's own threads, and how they stand still.
//!
//! Such a thread blocks all signals, so the signal that stops the program's threads for a graph of the heap does not
//! reach it. Instead it has a place, with a lock that it holds while it works, and leaves while it *rests*: while it
//! waits for time to pass or for a call. A thread that takes a graph holds the locks of all places. It takes them before
//! any other lock, because a thread at work may be waiting for one.
//!
//! # Protocol
//! A place's word is the number of a process, and the kernel's number of a thread in the lower half.
//! - *take*, by an own thread: from another process's word, or from 0 in the lower half, to TAKING, by
//!   compare-exchange. If the word was another process's, the lock is renewed: a thread that does not exist in this
//!   process may have held it at the fork. Then the thread takes the lock, writes an address on its stack, and
//!   writes its number into the word.
//! - *end*: 0 into the lower half, and then the thread leaves the lock.
//! - *hold*, by another thread: takes the lock of each place with a number, and reads the word again.
//!
//! # Invariants
//! - *At rest*: while another thread holds a place's lock, the place's thread is inside `rest`, or has ended, or waits
//!   for the lock. All that it did before happens before everything that the holder does, and all that happens before
//!   everything that the thread does next.
//! - *Where*: whoever holds the lock of a place with a number finds that thread's address in it.

use super::lock::{Guard, Lock};
use crate::sync::{AtomicU64, Ordering};

/// A place that is being taken. No thread has this number.
const TAKING: u32 = u32::MAX;

/// A place for one thread.
pub(crate) struct Place {
    word: AtomicU64,
    /// An address on the thread's stack. Held while the thread works.
    work: Lock<usize>,
}

/// The thread that has a place, or found none, while it works.
pub(crate) struct Worker<'place> {
    place: Option<(&'place Place, u32)>,
    guard: Option<Guard<'place, usize>>,
}

/// A thread at rest, which does not go on until this is dropped.
pub(crate) struct Resting<'place> {
    pub(crate) thread: u32,
    /// An address on its stack.
    pub(crate) stack: usize,
    _guard: Guard<'place, usize>,
}

const fn word(process: u32, thread: u32) -> u64 {
    (process as u64) << 32 | thread as u64
}

impl Place {
    #[cfg(not(pymalloc_loom))]
    pub(crate) const fn new() -> Self {
        Self { word: AtomicU64::new(0), work: Lock::new(0) }
    }

    #[cfg(pymalloc_loom)]
    pub(crate) fn new() -> Self {
        Self { word: AtomicU64::new(0), work: Lock::new(0) }
    }

    /// Takes one of the places for the calling thread. `process` is not 0; `stack` is an address on the thread's stack.
    pub(crate) fn take(places: &[Self], process: u32, thread: u32, stack: usize) -> Worker<'_> {
        let Some(place) = places.iter().find(|place| place.begins_to_take(process)) else {
            return Worker { place: None, guard: None };
        };
        let mut guard = place.work.lock();
        guard.with(|address| *address = stack);
        // Release: pairs with the Acquire in `thread`, so that the lock is renewed before another thread uses it.
        place.word.store(word(process, thread), Ordering::Release);
        Worker { place: Some((place, process)), guard: Some(guard) }
    }

    /// Makes the word TAKING if no thread has the place, and renews the lock if need be.
    fn begins_to_take(&self, process: u32) -> bool {
        let (free, taking) = (word(process, 0), word(process, TAKING));
        // Acquire: pairs with the Release in `drop`; the lock was renewed before. Relaxed on failure: nothing was taken.
        let before = match self.word.compare_exchange(free, taking, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => return true,
            Err(before) => before,
        };
        // Relaxed (both): what another process did came before the fork.
        let is_other = (before >> 32) as u32 != process
            && self.word.compare_exchange(before, taking, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if is_other {
            // SAFETY: threads of this process leave the lock alone until the word names one of them.
            unsafe { self.work.renew() };
        }
        is_other
    }

    /// The thread of this process that has the place.
    pub(crate) fn thread(&self, process: u32) -> Option<u32> {
        // Acquire: pairs with the Release in `take`.
        let word = self.word.load(Ordering::Acquire);
        let thread = word as u32;
        ((word >> 32) as u32 == process && thread != 0 && thread != TAKING).then_some(thread)
    }

    /// Waits until the place's thread rests; `None` if no other thread of this process has the place.
    pub(crate) fn hold(&self, process: u32, own: u32) -> Option<Resting<'_>> {
        let other = || self.thread(process).filter(|&thread| thread != own);
        other()?;
        let mut guard = self.work.lock();
        let thread = other()?;
        let stack = guard.with(|address| *address);
        Some(Resting { thread, stack, _guard: guard })
    }
}

impl Worker<'_> {
    /// Runs `body` at rest. It touches nothing that others own.
    pub(crate) fn rest<R>(&mut self, body: impl FnOnce() -> R) -> R {
        self.guard = None;
        let result = body();
        self.guard = self.place.map(|(place, _)| place.work.lock());
        result
    }
}

impl Drop for Worker<'_> {
    fn drop(&mut self) {
        if let Some((place, process)) = self.place {
            // Release: pairs with the Acquire in `begins_to_take`.
            place.word.store(word(process, 0), Ordering::Release);
        }
    }
}
