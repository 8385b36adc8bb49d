//! Windows, 64-bit: `VirtualAlloc`, `WaitOnAddress` and TLS callbacks. There is no fork, no signal and no cancellation.
//!
//! `docs/design/15-platforms.md` says what differs between platforms.

mod callbacks;
mod memory;
mod process;
mod sys;
mod threads;
mod wait;

pub(crate) use callbacks::{Callback, PROCESS_DETACH, at_end, at_start, when_alone, when_process_ends};
pub(crate) use memory::{
    advise_huge, commit, committed_bytes, decommit_each, map, map_guarded, now_ms, page_bytes, populate, purge,
    reserve, resident_bytes, unmap,
};
#[cfg(feature = "hardened")]
pub(crate) use process::random_number;
pub(crate) use process::{
    abort, at_exit, environment, is_ending, on_exit, on_fork, on_signal, process_id, report_stderr, signal_number,
    write_stderr,
};
pub(crate) use threads::{OwnThread, end_is_told_again, on_thread_end, start_thread, thread_id, thread_token};
pub(crate) use wait::{futex_wait, futex_wait_for, futex_wake};

use super::{MemoryRange, SystemMalloc};

pub(crate) const SUPPORTED: bool = true;
/// The tracer walks up a stack by the rules of ELF files.
#[cfg(feature = "trace")]
pub(crate) const TRACES: bool = false;
/// Memory of arenas is committed before it is used. Then the system has promised that much memory, touched or not.
pub(crate) const COMMITS: bool = true;
/// The process's end stops the other threads wherever they are, inside the allocator, too.
pub(crate) const KILLS_THREADS_AT_EXIT: bool = true;

/// Keeps the thread's last error as it was: neither a free nor an allocation that succeeds may change it.
pub(crate) struct KeepErrno(u32);

impl KeepErrno {
    pub(crate) fn new() -> Self {
        // SAFETY: no preconditions.
        Self(unsafe { sys::GetLastError() })
    }
}

impl Drop for KeepErrno {
    fn drop(&mut self) {
        // SAFETY: no preconditions.
        unsafe { sys::SetLastError(self.0) };
    }
}

/// Nothing to hold off: one thread can end another only in ways that no program may use.
#[derive(Debug)]
#[allow(unreachable_pub, reason = "as on other platforms")]
pub struct NoCancellation;

impl NoCancellation {
    /// Holds nothing off.
    #[allow(unreachable_pub, clippy::new_without_default, reason = "as on other platforms")]
    pub fn new() -> Self {
        Self
    }
}

/// The process's heap does not say cheaply what it holds.
pub(crate) fn system_malloc() -> Option<SystemMalloc> {
    None
}

/// The process's heap keeps free memory by rules of its own.
pub(crate) use super::NoWatch as WatchMalloc;

/// As above.
pub(crate) fn trim_malloc() {}

/// Never called, because the tracer walks no stack here.
#[cfg(feature = "trace")]
pub(crate) fn is_readable(_address: usize) -> bool {
    false
}

#[cfg(feature = "trace")]
#[allow(unreachable_pub, reason = "as on other platforms")]
pub use super::no_files::{Descriptor, Identity};
#[cfg(feature = "trace")]
pub(crate) use super::no_files::{open_to_write, resident_set_bytes};

/// As above.
#[cfg(feature = "trace")]
pub(crate) fn working_directory(_buffer: &mut [u8]) -> Option<usize> {
    None
}
