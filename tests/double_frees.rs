//! Simple programs that free a block twice and do nothing about it: none of them ends as if nothing were wrong.
//!
//! No program flushes or purges. A double free that is not found at the call is found when the cache of its class ages,
//! when its thread ends, or when the process exits.
#![cfg(all(target_os = "linux", not(pymalloc_bypass)))]

mod common;

use std::alloc::{GlobalAlloc, Layout};
use std::hint::black_box;
use std::thread;

use common::abort_of;
use pymalloc::Pymalloc;

/// Not the global allocator: so the heap holds only the test's blocks, and nothing else flushes.
static HEAP: Pymalloc = Pymalloc::new();

const BLOCK: Layout = Layout::new::<[u64; 6]>();
const MANY: usize = 20_000;

fn block() -> *mut u8 {
    // SAFETY: the size is not 0.
    black_box(unsafe { HEAP.alloc(BLOCK) })
}

fn free(start: *mut u8) {
    // SAFETY: none where a block is freed twice: that is the test, and its process has nothing to lose.
    unsafe { HEAP.dealloc(black_box(start), BLOCK) };
}

fn allocate_and_free(count: usize) -> Vec<*mut u8> {
    let blocks: Vec<_> = (0..count).map(|_| block()).collect();
    blocks.iter().copied().for_each(free);
    blocks
}

/// Runs the program in a process of its own, which exits with status 0 unless the allocator stops it.
fn is_stopped(test: &str, program: fn()) {
    let message = abort_of(test, program);
    // A block's pool may not belong to the class any more.
    let lines = [
        "pymalloc: double free: block is already free (",
        "pymalloc: free of an address in a pool that holds no blocks (",
    ];
    assert!(lines.iter().any(|line| message.starts_with(line)), "{message:?}");
    assert!(message.ends_with(", size class of 48 bytes)\n"), "{message:?}");
}

/// A test for each program.
macro_rules! programs {
    ($($name:ident => $body:block)+) => { $(
        #[test]
        fn $name() {
            is_stopped(stringify!($name), || $body);
        }
    )+ };
}

/// Frees a block, then another, then the first again.
fn free_again() {
    let blocks = [block(), block()];
    blocks.into_iter().chain([blocks[0]]).for_each(free);
}

programs! {
    twice_in_a_row_and_then_many_others => {
        let victim = block();
        free(victim);
        free(victim);
        allocate_and_free(MANY);
    }

    many_then_the_fourth_again_and_then_many_others => {
        let blocks = allocate_and_free(MANY);
        free(blocks[3]);
        allocate_and_free(MANY);
    }

    twice_with_another_in_between => {
        free_again();
    }

    twice_with_another_in_between_and_then_many_others => {
        free_again();
        allocate_and_free(MANY);
    }

    twice_in_a_thread_that_ends => {
        thread::spawn(free_again).join().expect("it does not panic");
    }

    once_long_ago_and_once_just_before_the_thread_ends => {
        let thread = || {
            let others = allocate_and_free(100);
            free(others[0]);
        };
        thread::spawn(thread).join().expect("it does not panic");
    }

    once_in_another_thread_and_once_here => {
        let victim = block();
        let address = victim.expose_provenance();
        let other = thread::spawn(move || free(std::ptr::with_exposed_provenance_mut(address)));
        other.join().expect("it does not panic");
        free(victim);
    }
}

/// Found neither at the call nor at the end: this program ends without the check at exit.
#[test]
fn twice_in_a_class_that_is_always_in_use() {
    const OTHER: Layout = Layout::new::<[u64; 64]>();
    is_stopped("twice_in_a_class_that_is_always_in_use", || {
        free_again();
        for _ in 0..1_000 {
            allocate_and_free(4);
            // SAFETY: the size is not 0.
            let others: Vec<_> = (0..2_000).map(|_| black_box(unsafe { HEAP.alloc(OTHER) })).collect();
            // SAFETY: allocated with that layout, and freed once.
            others.into_iter().for_each(|other| unsafe { HEAP.dealloc(other, OTHER) });
        }
        // SAFETY: ends the process without what `exit` does.
        unsafe { libc::_exit(0) };
    });
}
