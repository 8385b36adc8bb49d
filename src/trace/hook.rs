//! What runs inside the allocator's calls while tracing: for each block, before anybody else can have it.
//!
//! # Protocol
//! - *start*: poisons every cache, so that every call of every thread takes the slow path, and has the seam (`observe`)
//!   call the tracer; only then it stores the session's number in `SESSION`. A block is recorded only by a call that read
//!   that number. So whoever frees it, which is after that call, finds its own cache poisoned and the tracer wanted: no
//!   recorded block is ever freed unseen.
//! - *stop*: clears `SESSION`, takes both back, then empties the tables. Calls still under way insert nothing any more,
//!   because every insertion names its session and the tables know theirs.
//! - A block is recorded after its allocation and before the program gets it; it is forgotten before it is free. In
//!   between nobody else can have its address, so one address is never two blocks.
//! - The calls are made outside of all locks of the heap.
//!
//! # Re-entrancy
//! What the tracer itself allocates, at a snapshot or while it captures a stack, is recorded as the tracer's, without a
//! stack: so it does not call itself, and `overhead` knows all of it.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::blocks::{self, Block};
use super::capture;
use super::session;
use super::stacks::{self, StackId};
use super::thread;
use crate::observe::Owner;
use crate::os::NoCancellation;

/// The session's number; 0 when not tracing.
pub(super) static SESSION: AtomicU32 = AtomicU32::new(0);
/// Frames a trace. Written before `SESSION`.
pub(super) static FRAMES: AtomicU32 = AtomicU32::new(1);
/// The mean bytes between samples; 0 when every block is traced. Written before `SESSION`.
pub(super) static INTERVAL_BYTES: AtomicU64 = AtomicU64::new(0);

/// What the program asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    bytes: usize,
}

impl Request {
    #[inline(always)]
    pub(crate) const fn of_bytes(bytes: usize) -> Self {
        Self { bytes }
    }
}

/// While it lives, the calling thread's allocations are the tracer's.
pub(super) struct Busy {
    was: bool,
    /// What the program asks of the tracer may read files by the C library, and hold locks meanwhile.
    _no_cancellation: Option<NoCancellation>,
    /// A thread's own.
    _not_send: core::marker::PhantomData<*const ()>,
}

impl Busy {
    /// For a call of the program's to the tracer.
    pub(super) fn enter() -> Self {
        Self { _no_cancellation: Some(NoCancellation::new()), ..Self::enter_in_allocation() }
    }

    /// For what the tracer does inside the allocator's calls, where it passes no cancellation point (`os::files`).
    pub(super) fn enter_in_allocation() -> Self {
        let was = thread::with(|thread| thread.busy.replace(true));
        Self { was, _no_cancellation: None, _not_send: core::marker::PhantomData }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        thread::with(|thread| thread.busy.set(self.was));
    }
}

/// Whether blocks are being traced.
fn is_on() -> bool {
    // Relaxed: a block that was recorded is freed after the call that recorded it, which read the session's number;
    // so its free reads that number, too, or a later one.
    SESSION.load(Ordering::Relaxed) != 0
}

/// A block was allocated. The trace begins with the caller of the caller of the function that this is inlined into.
#[inline(always)]
pub(crate) fn allocated(block: *mut u8, request: Request) -> Owner {
    // Acquire: pairs with the Release in `start`; the poison and the wish that it set happen before this block is handed on.
    let session = SESSION.load(Ordering::Acquire);
    if session == 0 {
        return Owner::Program;
    }
    let marker = 0;
    record(session, block, request.bytes, &raw const marker)
}

/// A block is about to be free.
#[inline(always)]
pub(crate) fn freed(block: *mut u8) -> Owner {
    let known = if is_on() { forget(block) } else { None };
    known.map_or(Owner::Program, |known| owner_of(known.stack()))
}

#[cold]
#[inline(never)]
fn record(session: u32, block: *mut u8, bytes: usize, marker: *const u8) -> Owner {
    let Some(stack) = thread::with(|thread| {
        if thread.busy.get() {
            return Some(StackId::TRACER);
        }
        // Relaxed: written before the session's number, whose Acquire is ours.
        let interval = INTERVAL_BYTES.load(Ordering::Relaxed);
        if interval != 0
            && !thread.sampler.samples(bytes as u64, interval, session, crate::cache::thread_token() as u64)
        {
            return None;
        }
        let _busy = Busy::enter_in_allocation();
        let mut buffer = capture::buffer();
        // Relaxed: as above.
        let frames = capture::capture(&mut buffer, FRAMES.load(Ordering::Relaxed) as usize, marker, &thread.stack);
        Some(stacks::intern(session, frames))
    }) else {
        return Owner::Program;
    };
    blocks::insert(session, block.addr(), Block::new(bytes, stack));
    if stack != StackId::TRACER && blocks::peak_is_due() {
        session::keep_peak();
    }
    owner_of(stack)
}

fn owner_of(stack: StackId) -> Owner {
    if stack == StackId::TRACER { Owner::Tracer } else { Owner::Program }
}

#[cold]
#[inline(never)]
fn forget(block: *mut u8) -> Option<Block> {
    // Relaxed: written before the session's number; see `is_on`.
    blocks::remove(block.addr(), INTERVAL_BYTES.load(Ordering::Relaxed) != 0)
}

/// A block that the large allocator is about to move, if it is known, and the session.
pub(crate) type Moving = Option<(u32, Block)>;

/// The large allocator is about to move a block, or to fail to.
pub(crate) fn moving(block: *mut u8) -> Moving {
    // Relaxed: as in `is_on`.
    let session = SESSION.load(Ordering::Relaxed);
    if session == 0 {
        return None;
    }
    forget(block).map(|known| (session, known))
}

/// Whose block that is.
pub(crate) fn owner(moving: &Moving) -> Owner {
    moving.map_or(Owner::Program, |(_, known)| owner_of(known.stack()))
}

/// The large allocator could not move a block: it is as it was.
pub(crate) fn not_moved(block: *mut u8, moving: Moving) {
    if let Some((session, known)) = moving {
        blocks::insert(session, block.addr(), known);
    }
}

// --- Fork: all locks of the tracer, in the order `session`, the heap's, then these ---------------------------------

/// Before a fork takes the heap's locks.
pub(crate) fn before_stop() {
    session::acquire();
}

/// After a fork took the heap's locks.
pub(crate) fn after_stop() {
    stacks::acquire_all();
    blocks::acquire_all();
}

/// Before the heap's locks are let go.
///
/// # Safety
/// After [`after_stop`], on the same thread or in its forked child.
pub(crate) unsafe fn before_restart() {
    // SAFETY: the caller took them.
    unsafe {
        blocks::release_all();
        stacks::release_all();
    }
}

/// After the heap's locks were let go.
///
/// # Safety
/// After [`before_stop`], on the same thread or in its forked child.
pub(crate) unsafe fn after_restart() {
    // SAFETY: the caller took them.
    unsafe { session::release() };
}
