//! The twin of `src/sync.rs`: the same names, made of loom's types.

pub(crate) use loom::cell::UnsafeCell;
pub(crate) use loom::sync::atomic::{AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering};

use std::collections::HashMap;
use std::sync::Arc;

use loom::sync::{Condvar, Mutex};

/// One spin: enough to reach every line, and no loop for the model checker to unroll.
pub(crate) const LOCK_SPINS: u32 = 1;

/// Nothing: with a single spin, the checker need not be told to run somebody else.
pub(crate) fn spin_loop() {}

/// No model forks.
pub(crate) fn this_thread_forks() -> bool {
    false
}

/// The kernel's side of the futexes: who sleeps on which word, under one lock, as in one bucket of the kernel's hash
/// table.
///
/// A wake-up that reaches nobody is lost, so a lock that forgets a sleeper deadlocks, which loom reports. The
/// bucket's lock orders sleepers and wakers more than the memory model promises of a futex; the orderings of `Lock`
/// are put to the test by the paths that don't sleep.
struct Kernel {
    sleepers: Mutex<HashMap<usize, Arc<Condvar>>>,
}

loom::lazy_static! {
    static ref KERNEL: Kernel = Kernel { sleepers: Mutex::new(HashMap::new()) };
}

fn name_of(word: &AtomicU32) -> usize {
    core::ptr::from_ref(word).addr()
}

/// Sleeps while `*word == expected`, until [`futex_wake`].
pub(crate) fn futex_wait(word: &AtomicU32, expected: u32) {
    let mut sleepers = KERNEL.sleepers.lock().unwrap();
    // Relaxed: the kernel reads the word under the bucket's lock, which orders it after any wake-up that came before.
    if word.load(Ordering::Relaxed) == expected {
        let bed = sleepers.entry(name_of(word)).or_insert_with(|| Arc::new(Condvar::new())).clone();
        drop(bed.wait(sleepers).unwrap());
    }
}

/// Wakes one thread that sleeps on `word`.
pub(crate) fn futex_wake(word: &AtomicU32) {
    if let Some(bed) = KERNEL.sleepers.lock().unwrap().get(&name_of(word)) {
        bed.notify_one();
    }
}

/// Nothing: what it finds is in one thread.
pub(crate) struct Owner;

impl Owner {
    pub(crate) fn new() -> Self {
        Self
    }

    pub(crate) fn set(&self) {}

    pub(crate) fn clear(&self) {}

    pub(crate) fn refuse_this_thread(&self) {}
}
