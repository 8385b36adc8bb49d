//! Linux: `mmap`, `madvise`, futexes, pthread keys and `pthread_atfork`.

mod memory;
mod process;
#[cfg(feature = "trace")]
mod stack;
mod system_malloc;
mod threads;
mod wait;

pub(crate) use memory::{advise_huge, map, map_guarded, page_bytes, populate, purge, purge_each, unmap};
#[cfg(feature = "hardened")]
pub(crate) use process::random_number;
#[cfg(feature = "trace")]
pub(crate) use process::working_directory;
pub(crate) use process::{
    abort, at_start, environment, on_exit, on_fork, on_signal, process_id, signal_number, write_stderr,
};
#[cfg(feature = "trace")]
pub(crate) use stack::is_readable;
pub(crate) use system_malloc::{let_malloc_keep, system_malloc};
pub(crate) use threads::{end_is_told_again, on_thread_end, thread_id, thread_token, with_signals_blocked};
pub(crate) use wait::{futex_wait, futex_wake};

use super::{MemoryRange, SystemMalloc};

pub(crate) const SUPPORTED: bool = true;

/// Keeps `errno` as it was: neither a free nor an allocation that succeeds may change it.
struct KeepErrno(libc::c_int);

impl KeepErrno {
    fn new() -> Self {
        // SAFETY: libc's own thread-local.
        Self(unsafe { *libc::__errno_location() })
    }
}

impl Drop for KeepErrno {
    fn drop(&mut self) {
        // SAFETY: libc's own thread-local.
        unsafe { *libc::__errno_location() = self.0 };
    }
}
