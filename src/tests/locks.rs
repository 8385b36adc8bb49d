//! The lock among real threads. (The model checker tests its interleavings.)

use std::thread;

use crate::protocols::lock::Lock;

#[test]
fn one_thread_at_a_time_is_inside() {
    const THREADS: usize = 4;
    const ROUNDS: usize = if cfg!(miri) { 50 } else { 2000 };
    let lock = Lock::new(0);
    let add = || {
        for _ in 0..ROUNDS {
            lock.lock().with(|count| {
                let before = *count;
                // Gives another thread the chance to come in, if the lock let it.
                thread::yield_now();
                *count = before + 1;
            });
        }
    };
    thread::scope(|scope| (0..THREADS).for_each(|_| drop(scope.spawn(add))));
    lock.lock().with(|count| assert_eq!(*count, THREADS * ROUNDS));
}
