//! What every call of the tracer reads first: the session's number, its settings, and whether the thread is in the
//! tracer already.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};

use super::thread;
use crate::os::NoCancellation;

/// The session's number; 0 when not tracing.
pub(in crate::trace) static SESSION: AtomicU32 = AtomicU32::new(0);
/// The most frames per trace. Written before `SESSION`.
pub(in crate::trace) static FRAMES: AtomicU32 = AtomicU32::new(1);
/// The mean bytes between samples; 0 when every block is traced. Written before `SESSION`.
pub(in crate::trace) static INTERVAL_BYTES: AtomicU64 = AtomicU64::new(0);

/// Whether the system's unwinder walks where this crate's can't. Written before `SESSION`.
pub(in crate::trace) static SYSTEM_UNWINDER: AtomicBool = AtomicBool::new(false);

/// While it lives, the calling thread's allocations are the tracer's.
pub(crate) struct Busy {
    was: bool,
    /// A call by the program may read files through the C library while it holds locks: it must not be cancelled there.
    _no_cancellation: Option<NoCancellation>,
    /// It belongs to one thread.
    _not_send: core::marker::PhantomData<*const ()>,
}

impl Busy {
    /// For a call of the program's to the tracer.
    pub(crate) fn enter() -> Self {
        // Not by `..Self::enter_in_allocation()`: that value would be dropped here, and the thread no longer be busy.
        let mut busy = Self::enter_in_allocation();
        busy._no_cancellation = Some(NoCancellation::new());
        busy
    }

    /// For what the tracer does inside the allocator's calls, where it passes no cancellation point (`os::files`).
    pub(in crate::trace) fn enter_in_allocation() -> Self {
        let was = thread::with(|thread| thread.busy.replace(true));
        Self { was, _no_cancellation: None, _not_send: core::marker::PhantomData }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        thread::with(|thread| thread.busy.set(self.was));
    }
}
