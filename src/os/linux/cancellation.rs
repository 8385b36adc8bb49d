//! Holding off the cancellation of threads (`pthread_cancel`).

use core::ffi::c_int;
use core::marker::PhantomData;
use core::ptr;

/// `PTHREAD_CANCEL_DISABLE`, in glibc and musl.
const DISABLE: c_int = 1;

// The crate `libc` has none of these.
unsafe extern "C" {
    fn pthread_setcancelstate(state: c_int, before: *mut c_int) -> c_int;
}

/// While this value lives, the calling thread is not cancelled. It is for work that opens, reads or writes files by the
/// C library's functions while it holds locks or changes shared state. A cancellation that comes meanwhile takes effect
/// later.
#[must_use]
#[derive(Debug)]
pub struct NoCancellation {
    before: c_int,
    /// The state belongs to one thread.
    _not_send: PhantomData<*const ()>,
}

impl NoCancellation {
    /// Holds cancellation off from now on.
    #[allow(clippy::new_without_default, reason = "it acts")]
    pub fn new() -> Self {
        let mut before = 0;
        // SAFETY: a place for the state from before. The call allocates nothing, and is no cancellation point.
        unsafe { pthread_setcancelstate(DISABLE, &raw mut before) };
        Self { before, _not_send: PhantomData }
    }
}

impl Drop for NoCancellation {
    fn drop(&mut self) {
        // SAFETY: the state from before; the old one is not asked for.
        unsafe { pthread_setcancelstate(self.before, ptr::null_mut()) };
    }
}
