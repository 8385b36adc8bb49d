//! The lasting cost of threads that ended.

use crate::blocks::Blocks;
use crate::{figure, mark, rss};
use std::sync::{Arc, Barrier};
use std::time::Instant;
use std::{hint, thread};

/// Runs a number of threads at once, each with blocks of several classes, and ends them.
fn ended(threads: usize) {
    let all = Arc::new(Barrier::new(threads));
    let start = |_| {
        let all = Arc::clone(&all);
        let body = move || {
            let mut class = 0;
            let blocks = Blocks::new(32, || {
                class += 1;
                class * 8
            });
            all.wait();
            drop(blocks);
        };
        thread::Builder::new().stack_size(32 << 10).spawn(body).expect("a thread")
    };
    let handles: Vec<_> = (0..threads).map(start).collect();
    handles.into_iter().for_each(|handle| handle.join().expect("no thread panics"));
}

pub fn fork() {
    mark("threads");
    ended(4_000);
    mark("forks");
    let mut micros = f64::INFINITY;
    let mut dirty_kib = 0;
    for _ in 0..5 {
        let clock = Instant::now();
        let (took, dirty) = fork_once(clock);
        micros = micros.min(took);
        dirty_kib = dirty;
    }
    figure("us for the fork", micros);
    figure("KiB that the child dirties", dirty_kib as f64);
}

/// Forks; returns the microseconds until the parent goes on, and the KiB that only the child has.
fn fork_once(clock: Instant) -> (f64, usize) {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors.
    assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0, "a pipe");
    // SAFETY: the child allocates, which the allocator must allow, and ends by `_exit`.
    let child = unsafe { libc::fork() };
    let mut dirty_kib = 0_usize;
    if child == 0 {
        dirty_kib = rss::field_kib("smaps_rollup", "Private_Dirty:");
        // SAFETY: the bytes of an integer.
        unsafe {
            libc::write(ends[1], (&raw const dirty_kib).cast(), size_of::<usize>());
            libc::_exit(0);
        }
    }
    let micros = clock.elapsed().as_secs_f64() * 1e6;
    assert!(child > 0, "a child");
    // SAFETY: room for an integer; descriptors and child of ours.
    unsafe {
        libc::read(ends[0], (&raw mut dirty_kib).cast(), size_of::<usize>());
        libc::waitpid(child, std::ptr::null_mut(), 0);
        libc::close(ends[0]);
        libc::close(ends[1]);
    }
    (micros, dirty_kib)
}

pub fn walk() {
    let before = pairs_in_bulk();
    mark("threads");
    ended(5_000);
    mark("pairs");
    figure("% of the time before they were started", 100.0 * pairs_in_bulk() / before);
    #[cfg(feature = "alloc-pymalloc")]
    {
        let time = |_| {
            let clock = Instant::now();
            hint::black_box(pymalloc::allocated_blocks());
            clock.elapsed().as_secs_f64() * 1e6
        };
        figure("us for allocated_blocks()", (0..20).map(time).fold(f64::INFINITY, f64::min));
    }
}

/// Seconds to allocate and free 10,000 blocks in bulk: the best of many rounds.
fn pairs_in_bulk() -> f64 {
    let round = |_| {
        let clock = Instant::now();
        hint::black_box(Blocks::new(10_000, || 64)).free(0, 1);
        clock.elapsed().as_secs_f64()
    };
    (0..300).map(round).fold(f64::INFINITY, f64::min)
}
