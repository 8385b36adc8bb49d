//! The atomics, the cell, the lock and the fences that the shared parts are written on.
//!
//! `magazine.rs`, `stock.rs` and `waiters.rs` name nothing but this module and each other, so that the model checker's
//! tests compile the very same files against a twin of it (`tests/loom/object_pool/sync.rs`).

pub(super) use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
pub(super) use std::sync::{Mutex, MutexGuard};
pub(super) use std::thread::yield_now;

pub(super) use crate::os::{fences_work, heavy_fence, light_fence};
pub(super) use crate::sync::UnsafeCell;

/// Objects that a magazine can hold at most.
pub(super) const MAGAZINE_MAX: usize = 64;
/// Objects that a magazine can hold at first; doubled each time that it turns out too small.
pub(super) const MAGAZINE_START: usize = 8;
/// Slow calls with nobody waiting after which a shut gate is opened again.
pub(super) const REOPEN_AFTER: u32 = 64;
