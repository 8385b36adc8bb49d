//! The return addresses on the calling thread's stack.

use core::sync::atomic::{AtomicU64, Ordering};

use super::loaded;
use super::memory::Filled;
use super::state::{FRAMES, SYSTEM_UNWINDER};
use super::thread;
use super::walk::{End, Frame};
use crate::os;
use crate::protocols::lock::{Guard, Lock};

/// The most frames of a trace.
pub(in crate::trace) const FRAMES_MAX: usize = 256;
/// The most frames of the allocator (`__rust_alloc`, `GlobalAlloc::realloc` …) between the slow path and its caller.
/// They are captured in addition to the limit, and removed when the stack's names are looked up.
pub(in crate::trace) const ALLOCATOR_FRAMES: usize = 5;

/// The innermost frame, which is the slow path, whatever its name.
const SKIPPED_FRAMES: usize = 1;

type Buffer = [usize; FRAMES_MAX + ALLOCATOR_FRAMES + SKIPPED_FRAMES];

/// On cache lines of its own.
#[repr(align(64))]
struct Padded(Lock<Buffer>);

/// Buffers in which threads collect their frames; the threads' own stacks may be too small. A thread takes a free one.
/// While it holds the buffer, it takes only locks that come last in the lock order. So another thread waits for one
/// walk at most, and only if more threads walk at a time than there are buffers.
static BUFFERS: [Padded; 1 << BUFFER_BITS] =
    [const { Padded(Lock::new([0; FRAMES_MAX + ALLOCATOR_FRAMES + SKIPPED_FRAMES])) }; 1 << BUFFER_BITS];
const BUFFER_BITS: u32 = 6;

/// Stacks that were cut because the thread had no room on its own stack to walk further.
static CUT: AtomicU64 = AtomicU64::new(0);

fn buffer() -> Guard<'static, Buffer> {
    let own = (os::thread_token() as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (64 - BUFFER_BITS);
    let from_own = |offset: usize| &BUFFERS[(own as usize + offset) % BUFFERS.len()].0;
    (0..BUFFERS.len()).find_map(|offset| from_own(offset).try_lock()).unwrap_or_else(|| from_own(0).lock())
}

/// Calls `body` with the return addresses, and their modules, of the callers of a function, innermost first.
///
/// `marker` points to a local variable of that function. Its first caller is left out: it is the slow path. There are
/// as many addresses as the session wants, and as many more as may be the allocator's own.
///
/// Waits for no locks except those of the buffers and the tables. Allocates nothing, unless the system's unwinder was
/// asked for.
#[inline(never)]
pub(in crate::trace) fn with_frames<R>(marker: *const u8, body: impl FnOnce(&[usize]) -> R) -> R {
    buffer().with(|buffer| {
        // Relaxed: written before the session's number, which the caller has read with Acquire.
        let frames = FRAMES.load(Ordering::Relaxed) as usize;
        let limit = frames.saturating_add(ALLOCATOR_FRAMES + SKIPPED_FRAMES).min(buffer.len());
        let mut filled = Filled::new(&mut buffer[..limit]);
        let mut here = Frame { pc: 0, sp: 0, bp: 0 };
        frame_of_caller(&mut here);
        let end = thread::with(|thread| thread.stack.walk(here, marker.addr(), &mut filled));
        // Relaxed: as above.
        if end == End::Unknown && SYSTEM_UNWINDER.load(Ordering::Relaxed) {
            filled.clear();
            unwind(marker.addr(), &mut filled);
        }
        if end == End::NoRoom {
            // Relaxed: a count.
            CUT.fetch_add(1, Ordering::Relaxed);
        }
        // Skips the slow path, which reported the block: always one machine frame, since it is never inlined.
        body(filled.into_slice().get(SKIPPED_FRAMES..).unwrap_or_default())
    })
}

/// The walk of the system's unwinder; `walk` says what can go wrong with it.
fn unwind(marker: usize, filled: &mut Filled<'_>) {
    let mut module = loaded::Found::NONE;
    // SAFETY: the closure neither unwinds nor uses the crate's symbol cache, which is what the synchronised twin
    // guards.
    unsafe {
        backtrace::trace_unsynchronized(|frame| {
            // The stack grows down: below the marker, and at it, are the tracer and the slow path.
            if frame.sp().addr() <= marker {
                return true;
            }
            let pc = frame.ip().addr();
            if !module.holds(pc) {
                // SAFETY: a return address of the calling thread.
                module = loaded::find(pc);
            }
            pc == 0 || loaded::word(pc, &module).is_some_and(|found| filled.push(found))
        });
    }
}

/// Stacks that were cut since the session began.
pub(in crate::trace) fn cut() -> u64 {
    // Relaxed: a count.
    CUT.load(Ordering::Relaxed)
}

/// Resets the count, for a new session or one whose blocks are forgotten.
pub(in crate::trace) fn begin() {
    // Relaxed: a count.
    CUT.store(0, Ordering::Relaxed);
}

pub(in crate::trace) const BUFFERS_BYTES: usize = size_of_val(&BUFFERS);

/// Takes all buffers, for a fork.
pub(in crate::trace) fn acquire_all() {
    for buffer in &BUFFERS {
        let _acquired = buffer.0.acquire();
    }
}

/// Frees all buffers.
///
/// # Safety
/// After [`acquire_all`], on the same thread or in its forked child.
pub(in crate::trace) unsafe fn release_all() {
    for buffer in &BUFFERS {
        // SAFETY: the caller took them.
        unsafe { buffer.0.release() };
    }
}

/// The program counter, the stack pointer and the frame pointer of the function that this is inlined into.
#[cfg(feature = "graph")]
#[inline(always)]
pub(in crate::trace) fn here() -> (usize, usize, usize) {
    let mut frame = Frame { pc: 0, sp: 0, bp: 0 };
    frame_of_caller(&mut frame);
    (frame.pc, frame.sp, frame.bp)
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

/// As above.
#[cfg(target_arch = "aarch64")]
#[unsafe(naked)]
extern "C" fn frame_of_caller(frame: &mut Frame) {
    core::arch::naked_asm!("mov x9, sp", "stp x30, x9, [x0]", "str x29, [x0, #16]", "ret")
}

/// Elsewhere the system's unwinder does every walk.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn frame_of_caller(_frame: &mut Frame) {}
