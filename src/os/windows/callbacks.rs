//! Functions that run when the program is loaded, when a thread ends, and when the process ends.
//!
//! # TLS callbacks
//! The program's or library's file has a table of functions. Windows calls all of them when a thread ends, and when the
//! process ends. The linker sorts the table by the names of its sections, from `.CRT$XLA` to `.CRT$XLZ`. std destroys
//! thread-locals in `.CRT$XLB`, and the C library destroys its own in `.CRT$XLD`. So a thread's cache is still there
//! while they free, and is given up after that. (Callbacks of fiber-local storage come before all of these: they would
//! be too early.)
//!
//! | section | what |
//! |---|---|
//! | `.CRT$XLAP` | [`when_alone`]: before anything frees at the process's end |
//! | `.CRT$XLW` | the thread's end; the function of `on_exit` |
//! | `.CRT$XLY` | [`at_end`] |
//!
//! # The C library's tables
//! Functions in `.CRT$XCA` to `.CRT$XCZ` are called before `main`.
//!
//! # The process's end
//! When `main` returns, or C's `exit` is called, the functions of `atexit` run first, while the other threads still
//! run; std's `exit` skips them. Then Windows ends all other threads, wherever they are, and calls the TLS callbacks in
//! the thread that asked for the end. Nothing is called when the process is ended from outside or aborts. (In
//! these cases, Wine 8 calls the callbacks of libraries, but not those of the program.) Unloading a library calls its
//! table, too. The crate keeps its own library loaded (`stay_loaded`), and a call that comes all the same does nothing.

use core::ffi::c_void;

use super::{is_ending, process, threads};

/// A TLS callback. Its arguments are the module, the reason of the call, and one without use.
pub(crate) type Callback = unsafe extern "system" fn(*mut c_void, u32, *mut c_void);

const THREAD_DETACH: u32 = 3;
pub(crate) const PROCESS_DETACH: u32 = 0;

/// Registers a function of the crate to run when the program is loaded, before `main`.
macro_rules! at_start {
    ($function:ident) => {
        const _: () = {
            #[used]
            #[unsafe(link_section = ".CRT$XCU")]
            static AT_START: extern "C" fn() = $function;
        };
    };
}
pub(crate) use at_start;

/// Registers a function of the crate to run when the process exits, as one of the last. It runs once or twice.
macro_rules! at_end {
    ($function:ident) => {
        $crate::os::when_process_ends!($function, ".CRT$XLY");
        const _: () = {
            extern "C" fn register() {
                $crate::os::at_exit($function);
            }
            // Among the first to be registered, so among the last to run.
            #[used]
            #[unsafe(link_section = ".CRT$XCB")]
            static REGISTER: extern "C" fn() = register;
        };
    };
}
pub(crate) use at_end;

/// Registers a function of the crate to run when the process exits and no other thread is left, before anything else.
macro_rules! when_alone {
    ($function:ident) => {
        $crate::os::when_process_ends!($function, ".CRT$XLAP");
    };
}
pub(crate) use when_alone;

macro_rules! when_process_ends {
    ($function:ident, $section:literal) => {
        const _: () = {
            unsafe extern "system" fn call(_: *mut core::ffi::c_void, reason: u32, _: *mut core::ffi::c_void) {
                if reason == $crate::os::PROCESS_DETACH && $crate::os::is_ending() {
                    $function();
                }
            }
            #[used]
            #[unsafe(link_section = $section)]
            static AT_END: $crate::os::Callback = call;
        };
    };
}
pub(crate) use when_process_ends;

#[used]
#[unsafe(link_section = ".CRT$XLW")]
static BEHIND_THREAD_LOCALS: Callback = call;

unsafe extern "system" fn call(_module: *mut c_void, reason: u32, _: *mut c_void) {
    match reason {
        THREAD_DETACH => threads::tell_end(),
        PROCESS_DETACH if is_ending() => process::run_on_exit(),
        _ => {}
    }
}
