//! Platforms without support: no memory, so that every request goes to the large allocator.

use core::ptr::NonNull;
use core::sync::atomic::AtomicU32;

use super::MemoryRange;

pub(crate) const SUPPORTED: bool = false;
#[cfg(feature = "trace")]
pub(crate) const TRACES: bool = false;
pub(crate) const COMMITS: bool = false;
pub(crate) const KILLS_THREADS_AT_EXIT: bool = false;

pub(crate) fn page_bytes() -> usize {
    4096
}

pub(crate) fn map(_bytes: usize, _align: usize) -> Option<NonNull<u8>> {
    None
}

pub(crate) fn reserve(_bytes: usize, _align: usize) -> Option<NonNull<u8>> {
    None
}

pub(crate) unsafe fn commit(_start: NonNull<u8>, _bytes: usize) -> bool {
    false
}

pub(crate) fn committed_bytes(_start: NonNull<u8>, _bytes: usize) -> Option<usize> {
    None
}

pub(crate) fn map_guarded(_bytes: usize, _guard_bytes: usize) -> Option<NonNull<u8>> {
    None
}

pub(crate) unsafe fn unmap(_start: NonNull<u8>, _bytes: usize) -> bool {
    false
}

pub(crate) unsafe fn purge(_start: NonNull<u8>, _bytes: usize) -> bool {
    false
}

pub(crate) unsafe fn decommit_each(_ranges: &[MemoryRange]) -> usize {
    0
}

pub(crate) unsafe fn advise_huge(_start: NonNull<u8>, _bytes: usize, _huge: bool) {}

pub(crate) unsafe fn populate(_start: NonNull<u8>, _bytes: usize) {}

pub(crate) fn now_ms() -> u64 {
    0
}

pub(crate) fn resident_bytes(_start: NonNull<u8>, _bytes: usize) -> Option<usize> {
    None
}

pub(crate) use super::NoWatch as WatchMalloc;

pub(crate) fn trim_malloc() {}

pub(crate) fn futex_wait(_word: &AtomicU32, _expected: u32) {
    core::hint::spin_loop();
}

pub(crate) fn futex_wait_for(_word: &AtomicU32, _expected: u32, time: core::time::Duration) {
    std::thread::sleep(time);
}

pub(crate) fn futex_wake(_word: &AtomicU32) {}

#[cfg(feature = "hardened")]
pub(crate) fn random_number() -> u64 {
    0
}

pub(crate) fn on_thread_end(_ended: unsafe extern "C" fn(*mut libc::c_void), _value: *const ()) -> bool {
    false
}

pub(crate) fn end_is_told_again(_value: *mut libc::c_void) -> bool {
    false
}

#[cfg(feature = "trace")]
pub(crate) fn is_readable(_address: usize) -> bool {
    false
}

#[cfg(feature = "trace")]
#[allow(unreachable_pub, reason = "as on other platforms")]
pub use super::no_files::{Descriptor, Identity};
#[cfg(feature = "trace")]
pub(crate) use super::no_files::{open_to_write, resident_set_bytes};

#[cfg(feature = "trace")]
pub(crate) fn working_directory(_buffer: &mut [u8]) -> Option<usize> {
    None
}

pub(crate) fn on_fork(
    _prepare: unsafe extern "C" fn(),
    _parent: unsafe extern "C" fn(),
    _child: unsafe extern "C" fn(),
) -> bool {
    false
}

/// Nothing to keep.
pub(crate) struct KeepErrno;

impl KeepErrno {
    pub(crate) fn new() -> Self {
        Self
    }
}

/// Nothing to hold off.
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

/// No such thread is ever started.
pub(crate) enum OwnThread {}

impl OwnThread {
    pub(crate) fn join(self) {}

    pub(crate) fn detach(self) {}

    pub(crate) fn begin(_name: &core::ffi::CStr) {}
}

pub(crate) fn start_thread(
    _body: extern "C" fn(*mut core::ffi::c_void) -> *mut core::ffi::c_void,
    _argument: *mut core::ffi::c_void,
) -> Result<OwnThread, i32> {
    Err(0)
}

macro_rules! at_start {
    ($function:ident) => {
        const _: extern "C" fn() = $function;
    };
}
pub(crate) use at_start;

macro_rules! at_end {
    ($function:ident) => {
        const _: extern "C" fn() = $function;
    };
}
pub(crate) use at_end;

macro_rules! when_alone {
    ($function:ident) => {
        const _: extern "C" fn() = $function;
    };
}
pub(crate) use when_alone;

pub(crate) fn environment(_name: &core::ffi::CStr) -> Option<&'static [u8]> {
    None
}

pub(crate) fn on_exit(_function: extern "C" fn()) -> bool {
    false
}

pub(crate) fn signal_number(_name: &[u8]) -> Option<i32> {
    None
}

pub(crate) fn on_signal(_signal: i32, _function: extern "C" fn(i32)) -> bool {
    false
}

pub(crate) fn thread_id() -> u32 {
    1
}

pub(crate) fn thread_token() -> usize {
    thread_local! {
        static PLACE: u8 = const { 0 };
    }
    PLACE.with(|place| core::ptr::from_ref(place).addr())
}

pub(crate) fn process_id() -> u32 {
    #[cfg(unix)]
    // SAFETY: no preconditions.
    return unsafe { libc::getpid() }.cast_unsigned();
    #[cfg(not(unix))]
    1
}

pub(crate) fn system_malloc() -> Option<super::SystemMalloc> {
    None
}

pub(crate) fn write_stderr(bytes: &[u8]) {
    // It is unbuffered, and does not allocate. If it fails, there is nobody to tell.
    let _ = std::io::Write::write_all(&mut std::io::stderr(), bytes);
}

pub(crate) fn report_stderr(bytes: &[u8]) {
    write_stderr(bytes);
}

pub(crate) fn abort() -> ! {
    std::process::abort()
}
