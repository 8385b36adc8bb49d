//! What the patterns of misuse ask of the system.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::ptr::null_mut;

/// Memory that no allocator knows.
pub(crate) fn map(is_usable: bool) -> *mut u8 {
    let protection = if is_usable { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_NONE };
    // SAFETY: a new mapping disturbs nothing.
    let start = unsafe { libc::mmap(null_mut(), 1 << 20, protection, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0) };
    assert_ne!(start, libc::MAP_FAILED);
    start.cast::<u8>().wrapping_add(4096)
}

/// Whether what is mapped at an address can be run.
pub(crate) fn is_executable(address: usize) -> bool {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("Linux");
    let holds = |line: &&str| {
        let range = line.split(' ').next().and_then(|range| range.split_once('-'));
        range.is_some_and(|(first, end)| {
            let number = |text| usize::from_str_radix(text, 16).expect("hexadecimal");
            (number(first)..number(end)).contains(&address)
        })
    };
    maps.lines().find(holds).expect("the block is mapped").split(' ').nth(1).expect("a mode").contains('x')
}

/// Whether a process ended by an access that the processor refused.
pub(crate) fn is_fault(status: ExitStatus) -> bool {
    matches!(status.signal(), Some(libc::SIGSEGV | libc::SIGBUS))
}
