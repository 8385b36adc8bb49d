//! Cancellation of threads (`pthread_cancel`), held off.

use core::ffi::c_int;
use core::marker::PhantomData;
use core::ptr;

/// `PTHREAD_CANCEL_DISABLE`, in glibc and musl.
const DISABLE: c_int = 1;

// The crate `libc` has none of these.
unsafe extern "C" {
    fn pthread_setcancelstate(state: c_int, before: *mut c_int) -> c_int;
}

/// While it lives, the calling thread is not cancelled: for work that may open, read and write by the C library's
/// functions, and holds locks or changes shared state meanwhile. A cancellation that comes then takes effect later.
#[must_use]
#[derive(Debug)]
pub struct NoCancellation {
    before: c_int,
    /// A thread's own.
    _not_send: PhantomData<*const ()>,
}

impl NoCancellation {
    /// Holds it off from now on.
    #[allow(clippy::new_without_default, reason = "it acts")]
    pub fn new() -> Self {
        let mut before = 0;
        // SAFETY: a place for the state that was; allocates nothing, and is no cancellation point.
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
