//! Threads of the system's, which allocate nothing before they run: for Windows.

use std::ffi::c_void;
use std::ptr::null_mut;

/// What a thread runs; the word that it returns is lost.
pub(crate) type Main = extern "C-unwind" fn(*mut c_void) -> *mut c_void;

#[link(name = "kernel32")]
unsafe extern "system" {
    fn CreateThread(
        attributes: *mut c_void,
        stack_bytes: usize,
        main: unsafe extern "system" fn(*mut c_void) -> u32,
        argument: *mut c_void,
        flags: u32,
        id: *mut u32,
    ) -> *mut c_void;
    fn WaitForSingleObject(handle: *mut c_void, milliseconds: u32) -> u32;
    fn CloseHandle(handle: *mut c_void) -> i32;
}

/// What the thread gets; the starter's, which waits for it.
struct Start {
    main: Main,
    argument: *mut c_void,
    result: *mut c_void,
}

unsafe extern "system" fn run(start: *mut c_void) -> u32 {
    // SAFETY: `run_and_join` has it until the thread has ended.
    let start = unsafe { &mut *start.cast::<Start>() };
    start.result = (start.main)(start.argument);
    0
}

/// Runs `main` once for each argument, all at once, and returns what they returned when all have ended.
pub(crate) fn run_and_join<const COUNT: usize>(main: Main, arguments: [*mut c_void; COUNT]) -> [*mut c_void; COUNT] {
    let mut starts = arguments.map(|argument| Start { main, argument, result: null_mut() });
    let handles = starts.each_mut().map(|start| {
        // SAFETY: the thread gets what `run` expects.
        unsafe { CreateThread(null_mut(), 0, run, (&raw mut *start).cast(), 0, null_mut()) }
    });
    for handle in handles {
        assert!(!handle.is_null(), "{}", std::io::Error::last_os_error());
        // SAFETY: our own handle, closed once.
        unsafe {
            assert_eq!(WaitForSingleObject(handle, u32::MAX), 0);
            CloseHandle(handle);
        }
    }
    starts.map(|start| start.result)
}
