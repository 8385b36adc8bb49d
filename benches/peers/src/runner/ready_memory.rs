//! Gives the memory of each worker the same start.
//!
//! A virtual machine may hand free memory back to its host ("free page reporting", in huge pages, two seconds after
//! they were freed). The program that touches it next waits for the host: for the allocator that ran first, 168 MiB
//! took 80 ms of the kernel's time instead of 8. So just before each run the runner touches as much memory as the
//! workload needs. If no memory was handed back, this changes nothing.

use std::io;
use std::ptr;

use peers::catalog::{Entry, Theme};
use peers::params::Scale;

/// Touches free memory for a run of `workload`, and frees it. This only helps, so errors don't end the run.
pub fn touch(workload: &Entry, scale: Scale) {
    if let Err(error) = touch_mib(mib(workload, scale)) {
        eprintln!("memory for {} is not touched before it runs: {error}", workload.name);
    }
}

/// Bytes that a run takes with the allocator that takes most.
fn mib(workload: &Entry, scale: Scale) -> usize {
    match (workload.theme, scale) {
        (Theme::Live, _) | (Theme::Memory, Scale::Full) => workload.needs_mib,
        (Theme::Memory, Scale::Quick) => 200,
        (_, Scale::Full) => 256,
        (_, Scale::Quick) => 64,
    }
}

fn touch_mib(mib: usize) -> io::Result<()> {
    let bytes = mib << 20;
    let (access, kind) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping of our own, where the kernel likes.
    let start = unsafe { libc::mmap(ptr::null_mut(), bytes, access, kind, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the mapping from above, to which nothing else points.
    let touched = unsafe {
        // Small pages will do where there are no huge ones.
        libc::madvise(start, bytes, libc::MADV_HUGEPAGE);
        libc::madvise(start, bytes, libc::MADV_POPULATE_WRITE)
    };
    let result = if touched == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
    // SAFETY: the mapping from above, which is not used any more.
    unsafe { libc::munmap(start, bytes) };
    result
}
