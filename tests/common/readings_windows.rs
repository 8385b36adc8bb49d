//! What Windows says of this process.

use std::ffi::c_void;

/// `PROCESS_MEMORY_COUNTERS_EX`.
#[repr(C)]
#[derive(Default)]
struct MemoryCounters {
    bytes: u32,
    page_faults: u32,
    peak_working_set: usize,
    working_set: usize,
    quotas: [usize; 4],
    pagefile: usize,
    peak_pagefile: usize,
    private: usize,
}

#[link(name = "kernel32")]
unsafe extern "system" {
    fn K32GetProcessMemoryInfo(process: *mut c_void, counters: *mut MemoryCounters, bytes: u32) -> i32;
    fn GetCurrentProcess() -> *mut c_void;
    safe fn GetCurrentThreadId() -> u32;
}

fn counters() -> MemoryCounters {
    let bytes = u32::try_from(size_of::<MemoryCounters>()).expect("a small number");
    let mut counters = MemoryCounters { bytes, ..MemoryCounters::default() };
    // SAFETY: a place for the answer, of that length.
    let told = unsafe { K32GetProcessMemoryInfo(GetCurrentProcess(), &raw mut counters, bytes) };
    assert_ne!(told, 0, "{}", std::io::Error::last_os_error());
    counters
}

/// The working set of this process, in bytes.
pub(crate) fn rss_bytes() -> usize {
    counters().working_set
}

/// What this process uses up of the system's memory: its commit charge, in bytes.
pub(crate) fn memory_bytes() -> usize {
    // The same by two names, of which old systems know one and Wine the other.
    let counters = counters();
    counters.pagefile.max(counters.private)
}

/// The system's number of the calling thread.
pub(crate) fn thread_number() -> i64 {
    GetCurrentThreadId().into()
}

/// Bytes of an OS page.
pub(crate) const fn os_page_bytes() -> usize {
    4096
}
