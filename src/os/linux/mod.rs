//! Linux: `mmap`, `madvise`, futexes, pthread keys and `pthread_atfork`.

#[cfg_attr(not(feature = "__raw"), allow(unreachable_pub, reason = "the preload library's, too"))]
mod cancellation;
#[cfg_attr(not(feature = "__raw"), allow(dead_code, unreachable_pub, reason = "the preload library's, too"))]
mod files;
mod memory;
mod process;
#[cfg(feature = "trace")]
mod stack;
mod system_malloc;
#[cfg(feature = "graph")]
pub(crate) mod tasks;
mod threads;
mod wait;
#[cfg(all(target_env = "gnu", not(feature = "__raw")))]
mod watch_malloc;

#[cfg_attr(not(feature = "__raw"), allow(unreachable_pub, reason = "the preload library's, too"))]
pub use cancellation::NoCancellation;
#[cfg(feature = "trace")]
pub(crate) use files::open_to_write;
#[cfg(any(feature = "__raw", feature = "trace"))]
#[cfg_attr(not(feature = "__raw"), allow(unreachable_pub, reason = "the preload library's, too"))]
pub use files::{Descriptor, Identity};
pub(crate) use files::{report_stderr, write_stderr};
pub(crate) use memory::{
    advise_huge, commit, committed_bytes, decommit_each, map, map as reserve, map_guarded, now_ms, page_bytes,
    populate, purge, resident_bytes, unmap,
};
#[cfg(feature = "hardened")]
pub(crate) use process::random_number;
pub(crate) use process::{
    abort, at_end, at_start, environment, on_exit, on_fork, on_signal, process_id, signal_number, when_alone,
};
#[cfg(feature = "trace")]
pub(crate) use process::{resident_set_bytes, working_directory};
#[cfg(feature = "trace")]
pub(crate) use stack::is_readable;
pub(crate) use system_malloc::{system_malloc, trim_malloc};
pub(crate) use threads::{OwnThread, end_is_told_again, on_thread_end, start_thread, thread_id, thread_token};
pub(crate) use wait::{futex_wait, futex_wait_for, futex_wake};
#[cfg(all(target_env = "gnu", not(feature = "__raw")))]
pub(crate) use watch_malloc::WatchMalloc;

use super::{MemoryRange, SystemMalloc};

pub(crate) const SUPPORTED: bool = true;
#[cfg(feature = "trace")]
pub(crate) const TRACES: bool = true;
/// Memory needs no call before it is used.
pub(crate) const COMMITS: bool = false;
/// Other threads run on to the process's very end.
pub(crate) const KILLS_THREADS_AT_EXIT: bool = false;

/// Keeps `errno` as it was: neither a free nor an allocation that succeeds may change it.
pub(crate) struct KeepErrno(libc::c_int);

impl KeepErrno {
    pub(crate) fn new() -> Self {
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

/// Other C libraries keep free memory by rules of their own. In the preload library `malloc` is ours, and CPython's
/// programs gained nothing by this.
#[cfg(not(all(target_env = "gnu", not(feature = "__raw"))))]
pub(crate) use super::NoWatch as WatchMalloc;
