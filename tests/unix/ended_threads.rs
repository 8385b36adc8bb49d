//! Thousands of threads that ended cost nothing: neither a fork, nor what looks at each thread's cache.
//!
//! Without libtest, whose own threads would be counted.

use std::fs;
use std::hint::black_box;
use std::sync::{Arc, Barrier};
use std::thread;

use pymalloc::stats::CacheUse;
use pymalloc::{Pymalloc, self_check, stats, thread_caches};

#[global_allocator]
static GLOBAL: Pymalloc = Pymalloc::new();

const THREADS: usize = 1000;
/// A set is walked as long as something of it is left; of these few is: warm caches, and blocks that came from a thread
/// and are in the hands of another.
const WALKED_MAX: usize = 40;
/// More than a forked child needs for itself.
const DIRTY_KIB_MAX: usize = 512;

/// Runs so many threads at once, each with blocks of several classes, and ends them.
fn run_and_end(threads: usize) {
    let all = Arc::new(Barrier::new(threads));
    let start = |_| {
        let all = Arc::clone(&all);
        let body = move || {
            let blocks: Vec<Vec<u8>> = (1..=32).map(|class| vec![1; class * 8]).collect();
            all.wait();
            drop(black_box(blocks));
        };
        thread::Builder::new().stack_size(32 << 10).spawn(body).expect("a thread")
    };
    let handles: Vec<_> = (0..threads).map(start).collect();
    handles.into_iter().for_each(|handle| handle.join().expect("it does not panic"));
}

/// KiB that the process shares with no other.
fn dirty_kib() -> usize {
    let rollup = fs::read_to_string("/proc/self/smaps_rollup").expect("the kernel has it");
    let line = rollup.lines().find_map(|line| line.strip_prefix("Private_Dirty:")).expect("the field");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Forks; the KiB that the child has for itself.
fn dirty_kib_of_a_child() -> usize {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors.
    assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0, "a pipe");
    // SAFETY: the child allocates, and ends by `_exit`.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "a child");
    let mut kib = 0_usize;
    if child == 0 {
        kib = dirty_kib();
        // SAFETY: the bytes of an integer; ends the child.
        unsafe {
            libc::write(ends[1], (&raw const kib).cast(), size_of::<usize>());
            libc::_exit(0);
        }
    }
    // SAFETY: room for an integer; descriptors and child of ours.
    unsafe {
        assert_eq!(libc::read(ends[0], (&raw mut kib).cast(), size_of::<usize>()), size_of::<usize>() as isize);
        libc::waitpid(child, std::ptr::null_mut(), 0);
        libc::close(ends[0]);
        libc::close(ends[1]);
    }
    kib
}

pub(crate) fn main() {
    if cfg!(pymalloc_bypass) {
        return;
    }
    run_and_end(1);
    let few = dirty_kib_of_a_child();
    run_and_end(THREADS);
    let caches = thread_caches();
    let many = dirty_kib_of_a_child();
    assert!(stats().caches_parked >= THREADS);
    let parked = caches.iter().filter(|cache| cache.used_by == CacheUse::Parked).count();
    assert!(parked <= WALKED_MAX, "{parked} caches are walked");
    assert!(many <= few + DIRTY_KIB_MAX, "{few} KiB, then {many}");
    // Each is found again.
    run_and_end(THREADS);
    assert!(stats().caches_parked < THREADS + WALKED_MAX);
    self_check().expect("the heap is sound");
}
