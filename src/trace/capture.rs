//! The return addresses on the calling thread's stack.

use core::mem::MaybeUninit;

use super::memory::Filled;

/// Most frames of a trace.
pub(super) const FRAMES_MAX: usize = 256;
/// Frames of the allocator (`__rust_alloc`, `GlobalAlloc::alloc` …) that may stand between the slow path and its caller:
/// captured beyond the limit, and taken off when the stack gets its names.
pub(super) const ALLOCATOR_FRAMES: usize = 3;

pub(super) type Buffer = [MaybeUninit<usize>; FRAMES_MAX + ALLOCATOR_FRAMES];

pub(super) const fn buffer() -> Buffer {
    [MaybeUninit::uninit(); FRAMES_MAX + ALLOCATOR_FRAMES]
}

/// The return addresses of at most `frames` callers of the function that `marker`, a local variable, is in;
/// innermost first, and as many as may be the allocator's own more.
///
/// Allocates nothing and takes no lock of this crate.
#[inline(never)]
pub(super) fn capture(buffer: &mut Buffer, frames: usize, marker: *const u8) -> &[usize] {
    let limit = frames.saturating_add(ALLOCATOR_FRAMES).min(buffer.len());
    let mut filled = Filled::new(&mut buffer[..limit]);
    // SAFETY: the closure neither unwinds nor uses the crate's symbol cache, which is what the synchronised twin guards.
    unsafe {
        backtrace::trace_unsynchronized(|frame| {
            // The stack grows down: below the marker, and at it, are the tracer and the slow path.
            let inside = frame.sp().addr() <= marker.addr();
            inside || frame.ip().is_null() || (filled.push(frame.ip().addr()) && !filled.is_full())
        });
    }
    filled.into_slice()
}
