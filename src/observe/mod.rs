//! The seam in the cold paths: what is to be done there beside allocating, when somebody asks for it.
//!
//! One word, 0 as a rule, is looked at by the slow path of small requests and by the path of large ones: one load and one
//! branch that is never taken. The fast path of small requests does not look; who wants to see every small request poisons
//! the caches, so that each takes the slow path (`cache`): `measure` its thread's, the tracer all.
//!
//! What is called from here is called without any of the heap's locks, so it may allocate; `errno` stays as it was, and
//! no cancellation point may be passed (`os::files`). A block is told of while nobody
//! else can have its address: after its allocation and before its free.

use core::sync::atomic::{AtomicU32, Ordering};

use crate::os::KeepErrno;
use crate::{measure, report};

#[cfg(not(feature = "trace"))]
mod no_tracer;

#[cfg(not(feature = "trace"))]
use no_tracer as tracer;

#[cfg(feature = "trace")]
use crate::trace::hook as tracer;

pub(crate) use tracer::{Request, after_restart, after_stop, before_restart, before_stop};

/// What is wanted, as bits; [`MEASURE`] is the unit of a count above them.
static WANTED: AtomicU32 = AtomicU32::new(0);

/// A report of statistics is due.
pub(crate) const REPORT: u32 = 1;
/// Every block is traced.
#[cfg(feature = "trace")]
pub(crate) const TRACE: u32 = 2;
/// A thread measures; several may.
pub(crate) const MEASURE: u32 = 1 << 8;

/// Whose block it is.
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(feature = "trace"), expect(dead_code, reason = "only the tracer allocates for itself"))]
pub(crate) enum Owner {
    Program,
    /// Allocated by the tracer for itself: nobody counts it.
    Tracer,
}

/// Whether anything is wanted.
#[inline(always)]
pub(crate) fn is_wanted() -> bool {
    // Relaxed: a hint. A thread sees what it wanted itself; what the tracer needs seen happens before, by the session's
    // number (`trace/hook.rs`); nobody else needs to be seen at once.
    WANTED.load(Ordering::Relaxed) != 0
}

/// Whether any thread measures.
fn is_measuring() -> bool {
    // Relaxed: as in `is_wanted`.
    WANTED.load(Ordering::Relaxed) >= MEASURE
}

/// Adds a bit, or one measuring thread. Signal handlers may call it.
pub(crate) fn want(what: u32) {
    // Relaxed (both): as in `is_wanted`.
    match what {
        MEASURE => WANTED.fetch_add(MEASURE, Ordering::Relaxed),
        bit => WANTED.fetch_or(bit, Ordering::Relaxed),
    };
}

/// Undoes [`want`]; returns whether it was wanted.
pub(crate) fn unwant(what: u32) -> bool {
    // Relaxed (both): as in `is_wanted`.
    match what {
        MEASURE => WANTED.fetch_sub(MEASURE, Ordering::Relaxed) >= MEASURE,
        bit => WANTED.fetch_and(!bit, Ordering::Relaxed) & bit != 0,
    }
}

/// A block of `bytes` was handed out for `request`, or null. The calling function must not be inlined: the tracer takes it
/// off the stack that it sees.
#[inline(always)]
pub(crate) fn allocated(block: *mut u8, bytes: usize, request: Request) {
    if is_wanted() {
        allocated_wanted(block, bytes, request);
    }
}

/// A block of `bytes` is about to be freed.
#[inline(always)]
pub(crate) fn freed(block: *mut u8, bytes: usize) {
    if is_wanted() {
        freed_wanted(block, bytes);
    }
}

/// [`allocated`], when something is wanted.
#[cold]
#[inline(never)]
pub(crate) fn allocated_wanted(block: *mut u8, bytes: usize, request: Request) {
    let _errno = KeepErrno::new();
    if !block.is_null() && tracer::allocated(block, request) == Owner::Program && is_measuring() {
        measure::count_allocated(bytes);
    }
    report::print_if_due();
}

/// [`freed`], when something is wanted.
#[cold]
#[inline(never)]
pub(crate) fn freed_wanted(block: *mut u8, bytes: usize) {
    let _errno = KeepErrno::new();
    if tracer::freed(block) == Owner::Program && is_measuring() {
        measure::count_freed(bytes);
    }
    report::print_if_due();
}

/// A large block of `old_bytes` gets `new_bytes` by `realloc`, which may move it, or fail and leave it as it was; for when
/// something is wanted. As [`allocated`], for a calling function that is not inlined.
#[inline(always)]
pub(crate) fn resized_wanted(
    block: *mut u8,
    old_bytes: usize,
    new_bytes: usize,
    realloc: impl FnOnce() -> *mut u8,
) -> *mut u8 {
    // Before: meanwhile, others may get the old block's address.
    let known = tracer::moving(block);
    let new = realloc();
    if new.is_null() {
        tracer::not_moved(block, known);
        return new;
    }
    // In this order: as if in place, since whether the large allocator held both at once it does not say.
    if tracer::owner(&known) == Owner::Program && is_measuring() {
        measure::count_freed(old_bytes);
    }
    allocated_wanted(new, new_bytes, Request::of_bytes(new_bytes));
    new
}
