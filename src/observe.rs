//! The seam in the cold paths: what is to be done there beside allocating, when somebody asks for it.
//!
//! One word, 0 as a rule, is looked at by the slow path of small requests and by the path of large ones: one load and one
//! branch that is never taken. The fast path of small requests does not look; who wants to see every small request poisons
//! the caches, so that each takes the slow path (`cache`).
//!
//! What is called from here is called without any of the heap's locks, so it may allocate.

use core::sync::atomic::{AtomicU32, Ordering};

use crate::{measure, report};

/// What is wanted, as bits; [`MEASURE`] is the unit of a count above them.
static WANTED: AtomicU32 = AtomicU32::new(0);

/// A report of statistics is due.
pub(crate) const REPORT: u32 = 1;
/// A thread measures; several may.
pub(crate) const MEASURE: u32 = 1 << 8;

/// Whether anything is wanted.
#[inline(always)]
pub(crate) fn is_wanted() -> bool {
    // Relaxed: a hint. A thread sees what it wanted itself, and nobody else needs to be seen at once.
    WANTED.load(Ordering::Relaxed) != 0
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

/// A block was handed out, or null.
#[inline(always)]
pub(crate) fn allocated(block: *mut u8, bytes: usize) {
    if is_wanted() {
        allocated_wanted(block, bytes);
    }
}

/// A block is about to be freed.
#[inline(always)]
pub(crate) fn freed(block: *mut u8, bytes: usize) {
    if is_wanted() {
        freed_wanted(block, bytes);
    }
}

/// [`allocated`], when something is wanted.
#[cold]
#[inline(never)]
pub(crate) fn allocated_wanted(block: *mut u8, bytes: usize) {
    if !block.is_null() {
        measure::count_allocated(bytes);
    }
    report::print_if_due();
}

/// [`freed`], when something is wanted.
#[cold]
#[inline(never)]
pub(crate) fn freed_wanted(_block: *mut u8, bytes: usize) {
    measure::count_freed(bytes);
    report::print_if_due();
}
