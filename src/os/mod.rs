//! The operating system: memory, waiting, threads and their ends, fork, and the message before an abort.
//!
//! Each platform has a file or a folder, with the same functions. Other code rarely names a platform. Where the
//! allocator is not supported, or is asked to stand aside ([`BYPASS`]), every request goes to the large allocator.

use core::ptr::NonNull;

pub(crate) mod fork;
#[cfg(all(feature = "trace", not(all(target_os = "linux", target_pointer_width = "64", not(target_env = "ohos")))))]
mod no_files;

// Not with OpenHarmony's C library: there std's `thread_local!` allocates (`cache/tls.rs`).
#[cfg(all(target_os = "linux", target_pointer_width = "64", not(target_env = "ohos")))]
#[path = "linux/mod.rs"]
mod platform;

#[cfg(all(windows, target_pointer_width = "64"))]
#[path = "windows/mod.rs"]
mod platform;

#[cfg(not(any(
    all(target_os = "linux", target_pointer_width = "64", not(target_env = "ohos")),
    all(windows, target_pointer_width = "64"),
)))]
#[path = "unsupported.rs"]
mod platform;

#[cfg_attr(not(feature = "__raw"), allow(unreachable_pub, reason = "the preload library's, too"))]
pub use platform::NoCancellation;
#[cfg(feature = "hardened")]
pub(crate) use platform::random_number;
#[cfg(all(feature = "graph", target_os = "linux", target_pointer_width = "64", not(target_env = "ohos")))]
pub(crate) use platform::tasks;
pub(crate) use platform::thread_token;
#[cfg(all(windows, target_pointer_width = "64"))]
pub(crate) use platform::{Callback, PROCESS_DETACH, at_exit, is_ending, when_process_ends};
#[cfg(any(feature = "__raw", feature = "trace"))]
#[cfg_attr(not(feature = "__raw"), allow(unreachable_pub, reason = "the preload library's, too"))]
pub use platform::{Descriptor, Identity};
pub(crate) use platform::{KeepErrno, OwnThread, report_stderr, start_thread, write_stderr};
pub(crate) use platform::{
    WatchMalloc, environment, on_exit, on_signal, process_id, signal_number, system_malloc, thread_id, trim_malloc,
};
pub(crate) use platform::{abort, futex_wait, futex_wait_for, futex_wake, on_fork};
pub(crate) use platform::{at_end, at_start, when_alone};
pub(crate) use platform::{end_is_told_again, on_thread_end};
#[cfg(feature = "trace")]
pub(crate) use platform::{is_readable, open_to_write, resident_set_bytes, working_directory};

/// Whether the tracer works here.
#[cfg(feature = "trace")]
pub(crate) const TRACES: bool = platform::TRACES && !cfg!(miri);

/// Whether the running system's memory has to be [committed](MemorySource::commit) before it is used. Tests have memory
/// sources that ask for it on every platform.
pub(crate) const COMMITS: bool = platform::COMMITS || cfg!(test);

/// Whether the process's end stops the other threads wherever they are. Then locks may stay held.
pub(crate) const KILLS_THREADS_AT_EXIT: bool = platform::KILLS_THREADS_AT_EXIT;

/// Whether every request goes to the large allocator: on platforms without support, under Miri, and with the
/// flag `pymalloc_bypass` (for valgrind and the sanitizers, which then see each block).
pub(crate) const BYPASS: bool = cfg!(miri) || cfg!(pymalloc_bypass) || !platform::SUPPORTED;

/// The bytes that the C library's `malloc` holds, as its `mallinfo2` reports them (glibc 2.33 and later).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct SystemMalloc {
    /// Bytes of blocks in use, their headers included.
    pub bytes_live: usize,
    /// Bytes taken from the OS that are free.
    pub bytes_free: usize,
}

/// The watch of a `malloc` that nobody watches.
#[allow(dead_code, reason = "where glibc's is watched")]
pub(crate) struct NoWatch;

#[allow(dead_code, clippy::unused_self, reason = "as `WatchMalloc` on Linux")]
impl NoWatch {
    pub(crate) const fn new() -> Self {
        Self
    }

    pub(crate) const fn count(&self, _bytes: usize, _uses_malloc: fn() -> bool) {}

    pub(crate) const fn end(&self) {}
}

/// A range of memory, laid out like an `iovec`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct MemoryRange {
    pub(crate) start: *mut u8,
    pub(crate) bytes: usize,
}

/// The source of the memory for arenas and metadata.
///
/// The allocator reaches memory through this trait only, so that tests can count, refuse and fail each call.
/// All calls are on cold paths.
pub(crate) trait MemorySource: Sync {
    /// Bytes of an OS page.
    fn page_bytes(&self) -> usize;

    /// Maps `bytes` of zeroed, readable and writable memory, aligned to `align`; `None` when there is none.
    ///
    /// `bytes` is a multiple of the OS page, `align` a power of two.
    fn map(&self, bytes: usize, align: usize) -> Option<NonNull<u8>>;

    /// Maps `bytes` as [`map`](Self::map) does. Where the source [commits](Self::commits), it takes the addresses only,
    /// and each part has to be [committed](Self::commit) before it is used.
    fn reserve(&self, bytes: usize, align: usize) -> Option<NonNull<u8>> {
        self.map(bytes, align)
    }

    /// Whether memory that was reserved, or [decommitted](Self::decommit_each), has to be committed before it is used.
    fn commits(&self) -> bool {
        false
    }

    /// Gives the range zeroed memory. A part that has memory already stays as it is. Returns `false` when there is no
    /// memory; then nothing has changed, or some of the range has got memory.
    ///
    /// # Safety
    /// The range was reserved by this source, in whole OS pages.
    unsafe fn commit(&self, _start: NonNull<u8>, _bytes: usize) -> bool {
        true
    }

    /// Maps `bytes` of zeroed, readable and writable memory between two guards of `guard_bytes`, and aligned to that;
    /// every access to a guard faults, as far as the OS can. `None` when there is no memory. The range is never
    /// unmapped.
    ///
    /// `bytes` and `guard_bytes` are multiples of the OS page, and `guard_bytes` is a power of two.
    fn map_guarded(&self, bytes: usize, guard_bytes: usize) -> Option<NonNull<u8>>;

    /// Gives the range back. Returns `false` when the OS refuses; then the range stays mapped.
    ///
    /// # Safety
    /// The range was mapped by this source, in whole OS pages, and nothing uses it any more.
    unsafe fn unmap(&self, start: NonNull<u8>, bytes: usize) -> bool;

    /// Gives the range's memory back and keeps its addresses. If this returns `true`, the range reads as zero. If it
    /// returns `false`, each OS page of the range reads as zero or is as it was.
    ///
    /// # Safety
    /// The range was mapped by this source, in whole OS pages, and nothing in it is needed any more.
    unsafe fn purge(&self, start: NonNull<u8>, bytes: usize) -> bool;

    /// Purges `ranges`, one after the other, up to the first that the OS refuses, and returns the number purged. Where
    /// the source [commits](Self::commits), purged ranges have to be committed before they are used again.
    ///
    /// # Safety
    /// As for [`purge`](Self::purge), for each range. The ranges were reserved, and none starts at null.
    unsafe fn decommit_each(&self, ranges: &[MemoryRange]) -> usize {
        let purged = |range: &&MemoryRange| {
            // SAFETY: the caller's promise is the same.
            NonNull::new(range.start).is_some_and(|start| unsafe { self.purge(start, range.bytes) })
        };
        ranges.iter().take_while(purged).count()
    }

    /// Asks for huge pages in the range; or, if `huge` is false, for small ones from now on. The OS may ignore it.
    ///
    /// # Safety
    /// The range was mapped by this source, in whole OS pages.
    unsafe fn advise_huge(&self, start: NonNull<u8>, bytes: usize, huge: bool);

    /// Gives the range memory now, by one call, not at the first access to each OS page. The OS may ignore it.
    ///
    /// # Safety
    /// The range was mapped by this source, in whole OS pages.
    unsafe fn populate(&self, start: NonNull<u8>, bytes: usize);

    /// Bytes of the range that have memory now; `None` if the OS does not tell. The range consists of whole OS pages.
    fn resident_bytes(&self, _start: NonNull<u8>, _bytes: usize) -> Option<usize> {
        None
    }

    /// Bytes of the range that are committed; `None` where nothing has to be. The range consists of whole OS pages.
    fn committed_bytes(&self, _start: NonNull<u8>, _bytes: usize) -> Option<usize> {
        None
    }

    /// Milliseconds since some moment; they never go back. A coarse clock is enough, and is read under the heap's lock.
    fn now_ms(&self) -> u64 {
        0
    }
}

/// The running system's memory.
#[derive(Debug)]
pub(crate) struct SystemMemory;

impl MemorySource for SystemMemory {
    #[cfg_attr(target_os = "linux", unsafe(link_section = ".text_pymalloc"))]
    fn page_bytes(&self) -> usize {
        platform::page_bytes()
    }

    #[cfg_attr(target_os = "linux", unsafe(link_section = ".text_pymalloc"))]
    fn map(&self, bytes: usize, align: usize) -> Option<NonNull<u8>> {
        platform::map(bytes, align)
    }

    #[cfg_attr(target_os = "linux", unsafe(link_section = ".text_pymalloc"))]
    fn reserve(&self, bytes: usize, align: usize) -> Option<NonNull<u8>> {
        platform::reserve(bytes, align)
    }

    fn commits(&self) -> bool {
        platform::COMMITS
    }

    unsafe fn commit(&self, start: NonNull<u8>, bytes: usize) -> bool {
        // SAFETY: the caller's promise is the same.
        unsafe { platform::commit(start, bytes) }
    }

    #[cfg_attr(target_os = "linux", unsafe(link_section = ".text_pymalloc"))]
    fn map_guarded(&self, bytes: usize, guard_bytes: usize) -> Option<NonNull<u8>> {
        platform::map_guarded(bytes, guard_bytes)
    }

    unsafe fn unmap(&self, start: NonNull<u8>, bytes: usize) -> bool {
        // SAFETY: the caller's promise is the same.
        unsafe { platform::unmap(start, bytes) }
    }

    unsafe fn purge(&self, start: NonNull<u8>, bytes: usize) -> bool {
        // SAFETY: the caller's promise is the same.
        unsafe { platform::purge(start, bytes) }
    }

    unsafe fn decommit_each(&self, ranges: &[MemoryRange]) -> usize {
        // SAFETY: the caller's promise is the same.
        unsafe { platform::decommit_each(ranges) }
    }

    unsafe fn advise_huge(&self, start: NonNull<u8>, bytes: usize, huge: bool) {
        // SAFETY: the caller's promise is the same.
        unsafe { platform::advise_huge(start, bytes, huge) }
    }

    unsafe fn populate(&self, start: NonNull<u8>, bytes: usize) {
        // SAFETY: the caller's promise is the same.
        unsafe { platform::populate(start, bytes) }
    }

    fn resident_bytes(&self, start: NonNull<u8>, bytes: usize) -> Option<usize> {
        platform::resident_bytes(start, bytes)
    }

    fn committed_bytes(&self, start: NonNull<u8>, bytes: usize) -> Option<usize> {
        platform::committed_bytes(start, bytes)
    }

    fn now_ms(&self) -> u64 {
        platform::now_ms()
    }
}
