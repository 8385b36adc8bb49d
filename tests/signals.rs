//! A signal handler that allocates while its thread is inside the allocator is told so, and does not wait for ever.
#![cfg(all(target_os = "linux", not(pymalloc_bypass)))]

mod common;

use std::alloc::{GlobalAlloc, Layout};
use std::hint::black_box;
use std::mem::zeroed;
use std::ptr::null_mut;

use common::abort_of;
use pymalloc::Pymalloc;

static HEAP: Pymalloc = Pymalloc::new();

const BLOCK: Layout = Layout::new::<[u64; 50]>();
const OTHER: Layout = Layout::new::<[u64; 58]>();

/// The first allocation of a class takes the slow path.
extern "C" fn allocates(_signal: libc::c_int) {
    // SAFETY: the size is not 0.
    black_box(unsafe { HEAP.alloc(OTHER) });
}

/// Has `allocates` called by the next SIGABRT, and not by one that comes from there.
fn handle_abort() {
    // SAFETY: all zero is a valid action; the handler is a function that lives as long as the program.
    unsafe {
        let mut action: libc::sigaction = zeroed();
        action.sa_sigaction = allocates as *const () as libc::sighandler_t;
        action.sa_flags = libc::SA_RESETHAND | libc::SA_NODEFER;
        assert_eq!(libc::sigaction(libc::SIGABRT, &raw const action, null_mut()), 0);
    }
}

/// A double free is refused, and so the handler called, behind the door of the thread's pools.
#[test]
fn a_handler_that_allocates_inside_the_allocator_ends_the_process_with_a_line() {
    let printed = abort_of("a_handler_that_allocates_inside_the_allocator_ends_the_process_with_a_line", || {
        handle_abort();
        // SAFETY: the second free is the test; this process has nothing else to lose.
        unsafe {
            let start = black_box(HEAP.alloc(BLOCK));
            HEAP.dealloc(start, BLOCK);
            HEAP.dealloc(start, BLOCK);
        }
    });
    let mut lines = printed.lines();
    assert!(lines.next().is_some_and(|line| line.starts_with("pymalloc: double free")), "{printed:?}");
    let second = "pymalloc: a signal handler allocates or frees, and its thread was inside the allocator already";
    assert_eq!(lines.next(), Some(second), "{printed:?}");
    assert_eq!(lines.next(), None);
}
