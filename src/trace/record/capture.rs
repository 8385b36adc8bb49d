//! The return addresses on the calling thread's stack.

use core::mem::MaybeUninit;

use super::memory::Filled;
use super::rules::{Frame, Stack};

/// Most frames of a trace.
pub(in crate::trace) const FRAMES_MAX: usize = 256;
/// Frames of the allocator (`__rust_alloc`, `GlobalAlloc::realloc` …) that may stand between the slow path and its
/// caller: captured beyond the limit, and taken off when the stack gets its names.
pub(in crate::trace) const ALLOCATOR_FRAMES: usize = 5;

/// The innermost frame, which is the slow path, whatever its name.
const SKIPPED_FRAMES: usize = 1;

pub(in crate::trace) type Buffer = [MaybeUninit<usize>; FRAMES_MAX + ALLOCATOR_FRAMES + SKIPPED_FRAMES];

pub(in crate::trace) const fn buffer() -> Buffer {
    [MaybeUninit::uninit(); FRAMES_MAX + ALLOCATOR_FRAMES + SKIPPED_FRAMES]
}

/// The return addresses of at most `frames` callers of the function that `marker`, a local variable, is in, without the
/// first; innermost first, and as many as may be the allocator's own more.
///
/// Takes no lock of this crate; the system's unwinder may allocate on a thread's first walk.
#[inline(never)]
pub(in crate::trace) fn capture<'buffer>(
    buffer: &'buffer mut Buffer,
    frames: usize,
    marker: *const u8,
    stack: &Stack,
) -> &'buffer [usize] {
    let limit = frames.saturating_add(ALLOCATOR_FRAMES + SKIPPED_FRAMES).min(buffer.len());
    let mut filled = Filled::new(&mut buffer[..limit]);
    let mut here = Frame { pc: 0, sp: 0, bp: 0 };
    frame_of_caller(&mut here);
    if !stack.walk(here, marker.addr(), &mut filled) {
        filled.clear();
        unwind(marker.addr(), &mut filled);
    }
    // The function that told of the block: always one frame of the machine's, since neither is inlined.
    filled.into_slice().get(SKIPPED_FRAMES..).unwrap_or_default()
}

/// The walk of the system's unwinder.
fn unwind(marker: usize, filled: &mut Filled<'_, usize>) {
    // SAFETY: the closure neither unwinds nor uses the crate's symbol cache, which is what the synchronised twin
    // guards.
    unsafe {
        backtrace::trace_unsynchronized(|frame| {
            // The stack grows down: below the marker, and at it, are the tracer and the slow path.
            let inside = frame.sp().addr() <= marker;
            inside || frame.ip().is_null() || filled.push(frame.ip().addr())
        });
    }
}

/// The frame of the function that calls this, as it is after the return.
#[cfg(target_arch = "x86_64")]
#[unsafe(naked)]
extern "C" fn frame_of_caller(frame: &mut Frame) {
    core::arch::naked_asm!(
        "mov rax, [rsp]",
        "mov [rdi], rax",
        "lea rax, [rsp + 8]",
        "mov [rdi + 8], rax",
        "mov [rdi + 16], rbp",
        "ret",
    )
}

/// Elsewhere the unwinder does every walk.
#[cfg(not(target_arch = "x86_64"))]
fn frame_of_caller(_frame: &mut Frame) {}
