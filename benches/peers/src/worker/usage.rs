//! What this process has used so far, as the kernel says.

use std::fs;

/// Times and faults so far.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// User time in nanoseconds, all threads.
    pub user_nanos: u64,
    /// System time in nanoseconds, all threads.
    pub system_nanos: u64,
    /// Minor page faults.
    pub faults: u64,
    /// Voluntary context switches, all threads.
    pub waits: u64,
}

/// Reads times and faults. Allocates nothing.
pub fn usage() -> Usage {
    // SAFETY: all zeroes is a valid `rusage`, a struct of integers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live `rusage`.
    let status = unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) };
    assert_eq!(status, 0, "getrusage of this process cannot fail");
    Usage {
        user_nanos: nanos(usage.ru_utime),
        system_nanos: nanos(usage.ru_stime),
        faults: usage.ru_minflt.unsigned_abs(),
        waits: usage.ru_nvcsw.unsigned_abs(),
    }
}

fn nanos(time: libc::timeval) -> u64 {
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_usec.unsigned_abs() * 1_000
}

/// RSS now, in bytes.
pub fn rss() -> u64 {
    status_bytes("VmRSS:")
}

/// Highest RSS so far, in bytes.
pub fn peak_rss() -> u64 {
    status_bytes("VmHWM:")
}

fn status_bytes(key: &str) -> u64 {
    let status =
        fs::read_to_string("/proc/self/status").expect("Linux shows every process its status");
    let kibibytes = status
        .lines()
        .find_map(|line| line.strip_prefix(key))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse::<u64>().ok())
        .expect("the status of a process with memory has its sizes");
    kibibytes << 10
}
