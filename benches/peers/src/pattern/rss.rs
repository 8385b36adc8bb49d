//! The memory of this process, as the kernel reports it.

use std::fs;

/// Resident bytes now.
pub fn bytes() -> usize {
    let text = fs::read_to_string("/proc/self/statm").expect("Linux shows every process its sizes");
    let pages: usize =
        text.split(' ').nth(1).and_then(|word| word.parse().ok()).expect("resident pages");
    // SAFETY: asks for a constant of the system.
    pages * usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).expect("a size")
}

/// Resident MiB now.
pub fn mib() -> f64 {
    bytes() as f64 / (1 << 20) as f64
}

/// A field in KiB of a file of `/proc/self`.
pub fn field_kib(file: &str, key: &str) -> usize {
    let text = fs::read_to_string(format!("/proc/self/{file}"))
        .expect("Linux shows every process its sizes");
    let field = text.lines().find_map(|line| line.strip_prefix(key)).expect("a field of that file");
    field.split_whitespace().next().and_then(|word| word.parse().ok()).expect("a number")
}
