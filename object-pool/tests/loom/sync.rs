//! The twin of `src/sync.rs`: the same names, made of loom's types, and small numbers.

pub(super) use loom::cell::UnsafeCell;
pub(super) use loom::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
pub(super) use loom::sync::{Mutex, MutexGuard};

pub(super) const MAGAZINE_MAX: usize = 2;
pub(super) const MAGAZINE_START: usize = 2;
pub(super) const REOPEN_AFTER: u32 = 1;

/// Every wait is one for another thread to go on.
pub(super) fn pause(_looks: u32) {
    loom::thread::yield_now();
}

pub(super) fn fences_work() -> bool {
    true
}

/// What the pair of fences promises is what two of these do.
pub(super) fn light_fence() {
    loom::sync::atomic::fence(Ordering::SeqCst);
}

pub(super) fn heavy_fence() {
    loom::sync::atomic::fence(Ordering::SeqCst);
}
