//! The tracer's part of a thread. It has no destructor and is valid as zeroed memory, so reaching it never allocates.
//!
//! In the preload library (feature `__raw`) it is reached by the initial-exec model, as the thread slot is
//! (`cache/tls`). Otherwise `__tls_get_addr` may allocate, inside an allocation, once a library is opened at run time.

use core::cell::Cell;

use super::sampling::Sampler;
use super::walk::Stack;

pub(in crate::trace) struct Thread {
    /// Whether the tracer runs on this thread.
    pub(in crate::trace) busy: Cell<bool>,
    pub(in crate::trace) sampler: Sampler,
    pub(in crate::trace) stack: Stack,
}

impl Thread {
    /// All zeros.
    const fn new() -> Self {
        Self { busy: Cell::new(false), sampler: Sampler::new(), stack: Stack::new() }
    }
}

#[cfg(not(all(feature = "__raw", target_os = "linux", target_arch = "x86_64", not(miri))))]
mod place {
    use super::Thread;

    thread_local! {
        static THREAD: Thread = const { Thread::new() };
    }

    pub(in crate::trace) fn with<R>(body: impl FnOnce(&Thread) -> R) -> R {
        THREAD.with(body)
    }
}

#[cfg(all(feature = "__raw", target_os = "linux", target_arch = "x86_64", not(miri)))]
mod place {
    use core::arch::{asm, global_asm};

    use super::Thread;

    global_asm!(
        ".pushsection .tbss, \"awT\", %nobits",
        ".p2align 6",
        ".globl pymalloc_trace_thread",
        ".hidden pymalloc_trace_thread",
        ".type pymalloc_trace_thread, %tls_object",
        ".size pymalloc_trace_thread, {bytes}",
        "pymalloc_trace_thread:",
        ".zero {bytes}",
        ".popsection",
        bytes = const size_of::<Thread>(),
    );

    const _: () = assert!(align_of::<Thread>() <= 64);
    // What the zeros above stand for.
    const _: Thread = Thread::new();

    pub(in crate::trace) fn with<R>(body: impl FnOnce(&Thread) -> R) -> R {
        let thread: *const Thread;
        // SAFETY: the thread's pointer and an offset; no memory is read except constants of the thread.
        unsafe {
            asm!(
                "mov {thread}, qword ptr fs:[0]",
                "add {thread}, qword ptr [rip + pymalloc_trace_thread@GOTTPOFF]",
                thread = out(reg) thread,
                options(readonly, nostack),
            );
        }
        // SAFETY: this thread's own, which is valid as it began, zeroed; it is shared with nobody.
        body(unsafe { &*thread })
    }
}

/// Runs `body` with the calling thread's part.
pub(in crate::trace) fn with<R>(body: impl FnOnce(&Thread) -> R) -> R {
    place::with(body)
}
