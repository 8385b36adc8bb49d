//! A signal handler that allocates while its thread is inside the allocator ends the process with a message, instead of
//! waiting for ever.
//!
//! Not with the feature `hardened`, which refuses a double free at the call, before the door is taken.
#![cfg(all(target_os = "linux", not(any(pymalloc_bypass, feature = "hardened"))))]

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

/// Installs `allocates` as the handler of the next SIGABRT, but not of one that the handler causes.
fn handle_abort() {
    // SAFETY: all zero is a valid action; the handler is a function that lives as long as the program.
    unsafe {
        let mut action: libc::sigaction = zeroed();
        action.sa_sigaction = allocates as *const () as libc::sighandler_t;
        action.sa_flags = libc::SA_RESETHAND | libc::SA_NODEFER;
        assert_eq!(libc::sigaction(libc::SIGABRT, &raw const action, null_mut()), 0);
    }
}

/// A double free is refused while the thread holds the door of its set, so the handler runs there.
#[test]
fn a_handler_that_allocates_inside_the_allocator_ends_the_process_with_a_line() {
    let printed = abort_of("a_handler_that_allocates_inside_the_allocator_ends_the_process_with_a_line", || {
        handle_abort();
        // SAFETY: the second free is the test; this process has nothing to lose.
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
