//! A forked child starts its own purge thread, whatever lock of std's another thread of the parent held.
#![cfg(all(unix, not(pymalloc_bypass)))]

mod common;

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use common::{alone, or_exit};
use pymalloc::Pymalloc;
use pymalloc::purge::{PurgeConfig, PurgeThread};

/// Stops a thread in its own start or end, at one of its calls of the allocator: there std holds what locks it takes.
struct Stopping(Pymalloc);

#[global_allocator]
static GLOBAL: Stopping = Stopping(Pymalloc::new());

thread_local! {
    /// Whether the thread is never stopped.
    static IS_EXEMPT: Cell<bool> = const { Cell::new(false) };
}

/// The calls until a thread is stopped; 0 for never.
static CALLS_LEFT: AtomicUsize = AtomicUsize::new(0);
static STOPPED: AtomicBool = AtomicBool::new(false);
static GOES_ON: AtomicBool = AtomicBool::new(false);

fn stop_if_due() {
    let due = CALLS_LEFT.load(Ordering::Relaxed) != 0
        && !IS_EXEMPT.with(Cell::get)
        && CALLS_LEFT.fetch_sub(1, Ordering::Relaxed) == 1;
    if due {
        STOPPED.store(true, Ordering::Relaxed);
        while !GOES_ON.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_micros(200));
        }
    }
}

// SAFETY: the allocator's own calls; a thread may wait before one.
unsafe impl GlobalAlloc for Stopping {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        stop_if_due();
        // SAFETY: the caller's promise is the same.
        unsafe { self.0.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        stop_if_due();
        // SAFETY: the caller's promise is the same.
        unsafe { self.0.dealloc(block, layout) }
    }
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").expect("Linux").count()
}

/// In the child: its exit code.
fn starts_a_purge_thread() -> libc::c_int {
    CALLS_LEFT.store(0, Ordering::Relaxed);
    // SAFETY: no preconditions; a child that hangs dies of it.
    unsafe { libc::alarm(30) };
    let Ok(purging) = PurgeThread::start(PurgeConfig::new().interval(Duration::from_millis(1))) else { return 1 };
    purging.stop();
    0
}

/// Stops a new thread at its call of that number, and forks meanwhile; `false` if the thread makes fewer calls.
fn forks_amid_call(call: usize) -> bool {
    STOPPED.store(false, Ordering::Relaxed);
    GOES_ON.store(false, Ordering::Relaxed);
    let before = threads();
    CALLS_LEFT.store(call, Ordering::Relaxed);
    let thread = thread::spawn(|| ());
    // Its end includes what std does after the closure.
    while !STOPPED.load(Ordering::Relaxed) && threads() > before {
        thread::sleep(Duration::from_micros(200));
    }
    let stopped = STOPPED.load(Ordering::Relaxed);
    if stopped {
        // SAFETY: the child allocates, which this allocator allows, and ends by `_exit`.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: `_exit` has no preconditions.
            unsafe { libc::_exit(or_exit(starts_a_purge_thread)) };
        }
        let mut status = 0;
        // SAFETY: our own child; `status` is writable.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        GOES_ON.store(true, Ordering::Relaxed);
        assert_eq!(status, 0, "a thread was stopped at call {call}");
    }
    CALLS_LEFT.store(0, Ordering::Relaxed);
    GOES_ON.store(true, Ordering::Relaxed);
    thread.join().expect("it does nothing");
    stopped
}

#[test]
fn a_child_starts_its_own_whatever_a_thread_that_is_gone_was_doing() {
    alone("a_child_starts_its_own_whatever_a_thread_that_is_gone_was_doing", || {
        IS_EXEMPT.set(true);
        // Std keeps a list of threads: with more of them, other calls of the allocator are made with its lock held.
        let mut sleepers = Vec::new();
        for _ in 0..14 {
            let mut call = 1;
            while forks_amid_call(call) {
                call += 1;
            }
            assert!(call > 1, "a thread's start or end calls the allocator");
            let (wake, sleep) = channel::<()>();
            sleepers.push((wake, thread::spawn(move || sleep.recv().is_err())));
        }
        for (wake, thread) in sleepers {
            drop(wake);
            thread.join().expect("it wakes up");
        }
    });
}
