//! The lock alone, with a futex that forgets a wake-up if no thread waits for it.

use loom::thread;
use std::sync::Arc;

use crate::lock::Lock;
use crate::{check, check_bounded};

/// Each thread adds 1. Loom fails the model if two threads are inside without an order.
fn count(lock: &Lock<u32>) {
    lock.lock().with(|value| *value += 1);
}

#[test]
fn two_threads_are_never_inside_a_lock_together() {
    check(|| {
        let lock = Arc::new(Lock::new(0));
        let other = lock.clone();
        let thread = thread::spawn(move || {
            count(&other);
            count(&other);
        });
        count(&lock);
        thread.join().unwrap();
        assert_eq!(lock.lock().with(|value| *value), 3);
    });
}

/// A third thread may take the lock past two sleepers; both must still be woken. A forgotten sleeper is a deadlock.
#[test]
fn no_thread_that_sleeps_on_a_lock_is_forgotten() {
    check_bounded(4, || {
        let lock = Arc::new(Lock::new(0));
        let threads = [(); 2].map(|()| {
            let lock = lock.clone();
            thread::spawn(move || count(&lock))
        });
        count(&lock);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(lock.lock().with(|value| *value), 3);
    });
}

#[test]
fn a_try_lock_that_succeeds_keeps_others_out_and_one_that_fails_changes_nothing() {
    check(|| {
        let lock = Arc::new(Lock::new(0));
        let other = lock.clone();
        let thread = thread::spawn(move || other.try_lock().map(|mut guard| guard.with(|value| *value += 1)).is_some());
        let here = lock.try_lock().map(|mut guard| guard.with(|value| *value += 1)).is_some();
        count(&lock);
        let there = thread.join().unwrap();
        assert!(here || there, "each found the other inside, but none was");
        assert_eq!(lock.lock().with(|value| *value), 1 + u32::from(here) + u32::from(there));
    });
}

/// As when the slow paths are stopped: taken without a guard, and released without one.
#[test]
fn a_lock_taken_without_a_guard_keeps_others_out_until_it_is_released() {
    check(|| {
        let lock = Arc::new(Lock::new(0));
        let other = lock.clone();
        let thread = thread::spawn(move || count(&other));
        assert!(lock.acquire());
        // SAFETY: acquired just above; no other reference is live.
        unsafe { lock.with_held(|value| *value += 1) };
        // SAFETY: acquired above; there is no guard.
        unsafe { lock.release() };
        thread.join().unwrap();
        assert_eq!(lock.lock().with(|value| *value), 2);
    });
}
