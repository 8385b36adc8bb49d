//! The lock among real threads; its interleavings are the model checker's.

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
                // So that another would come in, if it could.
                thread::yield_now();
                *count = before + 1;
            });
        }
    };
    thread::scope(|scope| (0..THREADS).for_each(|_| drop(scope.spawn(add))));
    lock.lock().with(|count| assert_eq!(*count, THREADS * ROUNDS));
}
