//! Waiting for another thread: `WaitOnAddress`.

use core::sync::atomic::AtomicU32;
use core::time::Duration;

use super::{KeepErrno, abort, is_ending, sys, write_stderr};

/// Sleeps while `*word == expected`, until [`futex_wake`]; may return early.
///
/// Aborts at the process's end: the only thread left would wait for one that is gone. (Windows' own critical sections
/// end the process then, too, and say nothing.)
pub(crate) fn futex_wait(word: &AtomicU32, expected: u32) {
    if is_ending() {
        write_stderr(b"pymalloc: at the process's end, another thread was inside the allocator, and is gone\n");
        abort();
    }
    sleep(word, expected, sys::INFINITE);
}

/// [`futex_wait`] that ends after `time` at the latest.
pub(crate) fn futex_wait_for(word: &AtomicU32, expected: u32, time: Duration) {
    // Rounded up: otherwise a wait for the last fraction of a millisecond would be no wait.
    let milliseconds = time.as_nanos().div_ceil(1_000_000);
    sleep(word, expected, u32::try_from(milliseconds).unwrap_or(sys::INFINITE - 1).min(sys::INFINITE - 1));
}

fn sleep(word: &AtomicU32, expected: u32, milliseconds: u32) {
    let _errno = KeepErrno::new();
    // SAFETY: both words outlive the call, and are of that length.
    unsafe {
        sys::WaitOnAddress(word.as_ptr().cast(), (&raw const expected).cast(), size_of::<u32>(), milliseconds);
    }
}

/// Wakes one thread that sleeps on `word`.
pub(crate) fn futex_wake(word: &AtomicU32) {
    // SAFETY: the address is used as a name only.
    unsafe { sys::WakeByAddressSingle(word.as_ptr().cast()) };
}
