//! What the kernel says of this process, and its alarm.

use std::fs::File;
use std::io::Read;

use super::children::TEST_DEADLINE;

/// Resident bytes of this process.
pub(crate) fn rss_bytes() -> usize {
    statm_bytes(1)
}

/// What this process uses up of the system's memory, in bytes.
pub(crate) fn memory_bytes() -> usize {
    rss_bytes()
}

/// Mapped bytes of this process.
pub(crate) fn mapped_bytes() -> usize {
    statm_bytes(0)
}

/// Private writable bytes of this process, stacks included.
pub(crate) fn data_bytes() -> usize {
    statm_bytes(5)
}

fn statm_bytes(field: usize) -> usize {
    // On the stack: a reading must not change what it reads.
    let mut text = [0; 128];
    let length = File::open("/proc/self/statm").and_then(|mut file| file.read(&mut text)).expect("/proc is mounted");
    let os_pages: usize = std::str::from_utf8(&text[..length])
        .expect("ASCII")
        .split_ascii_whitespace()
        .nth(field)
        .and_then(|word| word.parse().ok())
        .expect("numbers");
    os_pages * os_page_bytes()
}

/// The kernel's number of the calling thread.
#[cfg(target_os = "linux")]
pub(crate) fn thread_number() -> i64 {
    // SAFETY: no preconditions.
    unsafe { libc::syscall(libc::SYS_gettid) }
}

/// Bytes of an OS page.
pub(crate) fn os_page_bytes() -> usize {
    // SAFETY: `sysconf` has no preconditions.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).expect("a page size")
}

/// Ends this process by SIGALRM, which fails the test, if it hangs from here on.
pub(crate) fn watchdog() {
    // SAFETY: `alarm` has no preconditions.
    unsafe { libc::alarm(TEST_DEADLINE.as_secs() as libc::c_uint) };
}

pub(crate) fn watchdog_off() {
    // SAFETY: `alarm` has no preconditions.
    unsafe { libc::alarm(0) };
}
