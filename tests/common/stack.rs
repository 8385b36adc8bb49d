//! Threads with stacks of a known size, and how much of the stack they use.
#![allow(dead_code, reason = "every binary that includes this file uses its own part of it")]

use std::ffi::c_void;
use std::mem::MaybeUninit;

const PAINT: u8 = 0xa5;

extern "C" fn run<F: FnOnce()>(body: *mut c_void) -> *mut c_void {
    // SAFETY: `thread` passes its own `body`, once.
    let body = unsafe { &mut *body.cast::<Option<F>>() };
    if let Some(body) = body.take() {
        body();
    }
    std::ptr::null_mut()
}

/// Runs `body` on a thread with attributes of its own.
fn thread<F: FnOnce()>(set: impl FnOnce(*mut libc::pthread_attr_t), body: F) {
    let mut body = Some(body);
    // SAFETY: the attributes are made before they are used; the thread ends before `body` does.
    unsafe {
        let mut attributes = MaybeUninit::<libc::pthread_attr_t>::uninit();
        assert_eq!(libc::pthread_attr_init(attributes.as_mut_ptr()), 0);
        set(attributes.as_mut_ptr());
        let mut thread = MaybeUninit::<libc::pthread_t>::uninit();
        let begun = libc::pthread_create(thread.as_mut_ptr(), attributes.as_ptr(), run::<F>, (&raw mut body).cast());
        assert_eq!(begun, 0, "a thread begins");
        assert_eq!(libc::pthread_join(thread.assume_init(), std::ptr::null_mut()), 0);
        libc::pthread_attr_destroy(attributes.as_mut_ptr());
    }
}

/// Runs `body` on a thread with a stack of `bytes`, above a guard.
pub(crate) fn with_stack(bytes: usize, body: impl FnOnce()) {
    // SAFETY: made by `thread`.
    thread(|attributes| assert_eq!(unsafe { libc::pthread_attr_setstacksize(attributes, bytes) }, 0), body);
}

/// Runs `body` on a thread with a painted stack of `bytes` bytes; returns how many of them were written to.
pub(crate) fn depth(bytes: usize, body: impl FnOnce()) -> usize {
    // SAFETY: a mapping of our own, read after the thread has ended, and unmapped once.
    unsafe {
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANON);
        let start = libc::mmap(std::ptr::null_mut(), bytes, access, kind, -1, 0);
        assert_ne!(start, libc::MAP_FAILED);
        start.cast::<u8>().write_bytes(PAINT, bytes);
        thread(|attributes| assert_eq!(libc::pthread_attr_setstack(attributes, start, bytes), 0), body);
        let painted = std::slice::from_raw_parts(start.cast::<u8>(), bytes);
        let untouched = painted.iter().take_while(|&&byte| byte == PAINT).count();
        libc::munmap(start, bytes);
        bytes - untouched
    }
}
