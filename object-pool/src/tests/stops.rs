//! A thread stops the owners of magazines and finds one that is busy inside its own.

use std::fs;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::magazine::Magazine;

/// Longer than the test takes: a test that reaches it has failed.
const LONG: Duration = Duration::from_secs(30);
/// Sleeps that prove that the thread waits: before the wait, a thread gives up its processor less often.
const SLEEPS: u64 = 20;

/// How often a thread of this process has given up its processor, so that a thread of any priority could run.
fn sleeps(thread: libc::pid_t) -> u64 {
    let status = fs::read_to_string(format!("/proc/self/task/{thread}/status")).expect("/proc is mounted");
    let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).expect("Linux says it");
    count.trim().parse().expect("a number")
}

/// The owner behaves as if it was preempted during its visit. A waiting thread of higher priority must let it run.
#[test]
fn a_thread_that_waits_for_an_owner_leaves_the_processor_to_threads_of_any_priority() {
    let magazine = Magazine::<u32>::new();
    // SAFETY: this thread plays the owner.
    let visit = unsafe { magazine.own() }.enter();
    let (tell, told) = mpsc::channel();
    let slept = thread::scope(|scope| {
        scope.spawn(|| {
            // SAFETY: no preconditions.
            tell.send(unsafe { libc::gettid() }).expect("the owner listens");
            // SAFETY: no other thread uses the magazine after the visit, so neither lock nor gate is needed.
            unsafe { magazine.stopped() }.count()
        });
        let waiter = told.recv().expect("the thread started");
        let (started, before) = (Instant::now(), sleeps(waiter));
        let slept = loop {
            let slept = sleeps(waiter) - before;
            if slept >= SLEEPS || started.elapsed() > LONG {
                break slept;
            }
            thread::yield_now();
        };
        drop(visit);
        slept
    });
    assert!(slept >= SLEEPS, "it slept {slept} times only");
}
