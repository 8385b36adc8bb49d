//! What Windows calls when the process starts, a thread ends, and the process ends: TLS callbacks, a table of functions
//! in the program's or library's file.
//!
//! # Order
//! The linker sorts the table by the names of its sections, from `.CRT$XLA` to `.CRT$XLZ`. std destroys thread-locals
//! in `.CRT$XLB`, the C library its own in `.CRT$XLD`. So a thread's cache is there while they free, and is given up
//! behind them, in `.CRT$XLW`. (Callbacks of fiber-local storage come before all of these: they would be too early.)
//!
//! | section | what |
//! |---|---|
//! | `.CRT$XLAP` | [`when_alone`]: before anything frees at the process's end |
//! | `.CRT$XLC` | [`at_start`] |
//! | `.CRT$XLW` | the thread's end; the functions of `on_exit` |
//! | `.CRT$XLY` | [`at_end`] |
//!
//! # The process's end
//! Windows ends all other threads first, wherever they are, and then calls the table in the thread that asked for the
//! end. Nothing is called when the process is ended from outside or aborts. Unloading a library calls the table, too; the
//! crate keeps its own library loaded (`stay_loaded`), and a call that comes all the same does nothing.

use core::ffi::c_void;

use super::{is_ending, process, threads};

/// A function of the table: the module, why it is called, and nothing of use.
pub(crate) type Callback = unsafe extern "system" fn(*mut c_void, u32, *mut c_void);

pub(crate) const PROCESS_ATTACH: u32 = 1;
const THREAD_DETACH: u32 = 3;
pub(crate) const PROCESS_DETACH: u32 = 0;

/// Has a function of the crate called when the program is loaded, before `main`.
macro_rules! at_start {
    ($function:ident) => {
        const _: () = {
            unsafe extern "system" fn call(_: *mut core::ffi::c_void, reason: u32, _: *mut core::ffi::c_void) {
                if reason == $crate::os::PROCESS_ATTACH {
                    $function();
                }
            }
            #[used]
            #[unsafe(link_section = ".CRT$XLC")]
            static AT_START: $crate::os::Callback = call;
        };
    };
}
pub(crate) use at_start;

/// Has a function of the crate called when the process exits, behind the destructors of the last thread's
/// thread-locals.
macro_rules! at_end {
    ($function:ident) => {
        $crate::os::when_process_ends!($function, ".CRT$XLY");
    };
}
pub(crate) use at_end;

/// Has a function of the crate called when the process exits and no other thread is left, before anything else is.
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
