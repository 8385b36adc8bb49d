//! The twin of `src/sync.rs`: the same names, made of loom's types.

pub(crate) use loom::cell::UnsafeCell;
pub(crate) use loom::sync::atomic::{AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use std::collections::HashMap;
use std::sync::Arc;

use loom::sync::{Condvar, Mutex};

/// Loads a word as its only writer, or under the lock that all writers hold: only one value is possible.
///
/// It does not use `load`: loom's search goes back to the *last* access that a store conflicts with. A load right
/// before the store would be that access and would hide the walker's earlier load. Loom would then try no execution in
/// which the walker comes later.
pub(crate) fn load_own(word: &AtomicUsize) -> usize {
    // SAFETY: loom fails the model if a store is not ordered before this.
    unsafe { word.unsync_load() }
}

/// One spin: enough to reach every line, and no loop for the model checker to unroll.
pub(crate) const LOCK_SPINS: u32 = 1;

/// Does nothing: with a single spin, loom need not be told to run another thread.
pub(crate) fn spin_loop() {}

/// No model forks.
pub(crate) fn this_thread_forks() -> bool {
    false
}

/// The kernel's side of the futexes: which thread sleeps on which word, under one lock, as in one bucket of the
/// kernel's hash table.
///
/// A wake-up that reaches no sleeper is lost, so a lock that forgets a sleeper deadlocks, which loom reports. The
/// bucket's lock orders sleepers and wakers more strongly than the memory model promises for a futex; the paths that
/// don't sleep test the orderings of `Lock`.
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

/// Does nothing: it finds errors within one thread.
pub(crate) struct Owner;

impl Owner {
    pub(crate) fn new() -> Self {
        Self
    }

    pub(crate) fn set(&self) {}

    pub(crate) fn clear(&self) {}

    pub(crate) fn refuse_this_thread(&self) {}
}
