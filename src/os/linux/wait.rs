//! Waiting for another thread: futexes.

use core::ptr;
use core::sync::atomic::AtomicU32;
use core::time::Duration;

use super::KeepErrno;

/// Sleeps while `*word == expected`, until [`futex_wake`]; may return early.
pub(crate) fn futex_wait(word: &AtomicU32, expected: u32) {
    sleep(word, expected, None);
}

/// [`futex_wait`] that ends after `time` at the latest.
pub(crate) fn futex_wait_for(word: &AtomicU32, expected: u32, time: Duration) {
    let time = libc::timespec {
        tv_sec: libc::time_t::try_from(time.as_secs()).unwrap_or(libc::time_t::MAX),
        // Below a billion, so it fits whatever the type.
        tv_nsec: time.subsec_nanos() as _,
    };
    sleep(word, expected, Some(&time));
}

fn sleep(word: &AtomicU32, expected: u32, time: Option<&libc::timespec>) {
    let _errno = KeepErrno::new();
    let time: *const libc::timespec = time.map_or(ptr::null(), ptr::from_ref);
    // SAFETY: the word and the time outlive the call; the kernel only reads them.
    unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG, expected, time)
    };
}

/// Wakes one thread that sleeps on `word`.
pub(crate) fn futex_wake(word: &AtomicU32) {
    let _errno = KeepErrno::new();
    // SAFETY: the kernel uses the address as a name only.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG, 1) };
}
