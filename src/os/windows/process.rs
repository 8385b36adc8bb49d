//! The process: its environment, its end, and the message before an abort.

use core::cell::UnsafeCell;
use core::ffi::{CStr, c_int};
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

use super::{KeepErrno, sys};

/// There is no fork.
pub(crate) const fn on_fork(
    _prepare: unsafe extern "C" fn(),
    _parent: unsafe extern "C" fn(),
    _child: unsafe extern "C" fn(),
) -> bool {
    true
}

/// The most bytes of an environment variable's value. The values that are asked for are a few words.
const VALUE_BYTES_MAX: usize = 512;

struct Value(UnsafeCell<[u8; VALUE_BYTES_MAX]>);

// SAFETY: only `environment` touches it, before `main`, when only one thread may.
unsafe impl Sync for Value {}

/// The value of an environment variable. `None` if the variable is not set, or is longer than every value that means
/// something. To be called only before `main`, and once.
pub(crate) fn environment(name: &CStr) -> Option<&'static [u8]> {
    static VALUE: Value = Value(UnsafeCell::new([0; VALUE_BYTES_MAX]));
    let _errno = KeepErrno::new();
    // SAFETY: before `main` no other thread is here, and this function is called once.
    let value = unsafe { &mut *VALUE.0.get() };
    // SAFETY: a name that ends in a zero byte, and a buffer of that length.
    let length =
        unsafe { sys::GetEnvironmentVariableA(name.as_ptr().cast(), value.as_mut_ptr(), VALUE_BYTES_MAX as u32) };
    // 0 if there is none; more than the buffer has if the value does not fit.
    let length = usize::try_from(length).unwrap_or(0);
    if length == 0 { None } else { value.get(..length) }
}

/// The function that [`on_exit`] registered, until it is called: only the reports register one.
static AT_EXIT: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());

/// Registers `function` to run once when the process exits: by `atexit`, or, because std's `exit` skips that, after the
/// destructors of the last thread's thread-locals. Returns `false` if a function is registered already.
pub(crate) fn on_exit(function: extern "C" fn()) -> bool {
    // Relaxed: registered before `main`, and taken by one thread.
    AT_EXIT.compare_exchange(ptr::null_mut(), function as *mut (), Ordering::Relaxed, Ordering::Relaxed).is_ok()
        && at_exit(run_on_exit)
}

/// Registers `function` to run when `main` returns, or by C's `exit`.
pub(crate) fn at_exit(function: extern "C" fn()) -> bool {
    // SAFETY: a function that lives as long as the program, because the library stays loaded.
    unsafe { libc::atexit(function) == 0 }
}

pub(super) extern "C" fn run_on_exit() {
    // Relaxed: as above.
    let function = AT_EXIT.swap(ptr::null_mut(), Ordering::Relaxed);
    if !function.is_null() {
        // SAFETY: only `on_exit` writes it, a function of that type.
        let function: extern "C" fn() = unsafe { core::mem::transmute(function) };
        function();
    }
}

/// Whether the process is ending, and the calling thread is its last.
pub(crate) fn is_ending() -> bool {
    // SAFETY: no preconditions.
    unsafe { sys::RtlDllShutdownInProgress() != 0 }
}

/// No signal here is one that a program may use for its own purposes.
pub(crate) const fn signal_number(_name: &[u8]) -> Option<c_int> {
    None
}

pub(crate) const fn on_signal(_signal: c_int, _function: extern "C" fn(c_int)) -> bool {
    false
}

/// The number of this process; not 0.
pub(crate) fn process_id() -> u32 {
    // SAFETY: no preconditions.
    unsafe { sys::GetCurrentProcessId() }
}

/// A number that no attacker can predict.
#[cfg(feature = "hardened")]
pub(crate) fn random_number() -> u64 {
    let mut number = [0_u8; 8];
    // SAFETY: writable, of that length. It never fails, by its documentation.
    unsafe { sys::ProcessPrng(number.as_mut_ptr(), number.len()) };
    u64::from_ne_bytes(number)
}

/// Writes the message before an abort to stderr.
pub(crate) fn write_stderr(bytes: &[u8]) {
    let _errno = KeepErrno::new();
    // SAFETY: no preconditions. The result is null or -1 if there is no stderr; then the writing fails.
    let stderr = unsafe { sys::GetStdHandle(sys::STD_ERROR_HANDLE) };
    let mut rest = bytes;
    while !rest.is_empty() {
        let (count, mut written) = (u32::try_from(rest.len()).unwrap_or(u32::MAX), 0);
        // SAFETY: a readable buffer of that length, and a place for the answer.
        let done = unsafe { sys::WriteFile(stderr, rest.as_ptr(), count, &raw mut written, ptr::null_mut()) };
        if done == 0 || written == 0 {
            // There is nobody to tell.
            return;
        }
        rest = rest.get(written as usize..).unwrap_or_default();
    }
}

/// Writes a report to stderr. Unlike a descriptor, the handle is looked up at each call, so it is always the program's
/// present stderr.
pub(crate) fn report_stderr(bytes: &[u8]) {
    write_stderr(bytes);
}

/// Ends the process by a fast fail, which runs no handler and no callback.
pub(crate) fn abort() -> ! {
    std::process::abort()
}
