//! Caches in a forked child: its first thread's is known by the new number, and each further thread gets one of its
//! own, although ended threads had left some before the fork.
#![cfg(all(unix, not(pymalloc_bypass)))]

use std::hint::black_box;
use std::panic::catch_unwind;
use std::sync::Barrier;
use std::thread;

use pymalloc::stats::CacheUse;
use pymalloc::{Pymalloc, stats, thread_caches};

#[global_allocator]
static GLOBAL: Pymalloc = Pymalloc::new();

/// Runs so many threads that allocate, all at once; returns how many threads have a cache while they run.
fn caches_while_running(threads: usize) -> usize {
    let (begun, looked) = (Barrier::new(threads + 1), Barrier::new(threads + 1));
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                drop(black_box(Box::new(1_u64)));
                begun.wait();
                looked.wait();
            });
        }
        begun.wait();
        let caches = stats().caches_live;
        looked.wait();
        caches
    })
}

/// Whether the calling thread's cache is listed under the thread's number.
fn is_listed() -> bool {
    // SAFETY: no preconditions.
    let number = unsafe { libc::syscall(libc::SYS_gettid) };
    let is_own = |thread: Option<u32>| thread.map(libc::c_long::from) == Some(number);
    thread_caches().iter().any(|cache| cache.used_by == CacheUse::Caller && is_own(cache.thread))
}

#[test]
fn threads_of_a_child_have_caches_of_their_own() {
    // The caches of these threads are left; libtest's main thread has one, and this thread.
    assert_eq!(caches_while_running(2), 4);
    // SAFETY: the child allocates, starts threads and exits; it does not come back to libtest.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "no child");
    if child == 0 {
        let is_listed = catch_unwind(is_listed).unwrap_or(false);
        // Three of them get those of the two threads and of libtest's, one gets a new one.
        let has_own = catch_unwind(|| caches_while_running(4)).is_ok_and(|caches| caches == 5);
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(i32::from(!is_listed) | i32::from(!has_own) << 1) };
    }
    let mut status = 0;
    // SAFETY: a child of this process, and a place for its status.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0);
}
