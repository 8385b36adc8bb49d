//! A fast, dense, multi-threaded small-object allocator after CPython's pymalloc.
//!
//! ```
//! use pymalloc::Pymalloc;
//!
//! #[global_allocator]
//! static GLOBAL: Pymalloc = Pymalloc::new();
//! ```
//!
//! Memory comes from the OS in *arenas* of 2 MiB, arenas are cut into *pools* of 32 KiB, and a pool into *blocks* of one
//! of 64 *size classes*: 8, 16, 24 … 512 bytes. Larger requests go to the *large allocator*, by default the system's
//! `malloc`. Each thread has a cache with a *magazine* of free blocks a class; what it does not hold is in the bitmaps
//! of the pools that the thread owns.
//!
//! # Layers
//! A file imports from files above it and beside it; `heap` and `pool_set` know each other, `sync` and `cache`
//! ask `fork`, `public` calls `check` and `stats`.
//!
//! | layer | files |
//! |---|---|
//! | numbers | `config`, `size_class` |
//! | the system | `os/`, `fatal`, `sync`, `lock` |
//! | one pool, one arena | `remote`, `bitmap`, `pool`, `arena` |
//! | all arenas | `arena_map`, `arena_table`, `metadata`, `heap` |
//! | one thread | `pool_set`, `cache/` |
//! | the program | `allocator`, `public`, `fork` |
//! | beside | `stats`, `check`; `observer`, and with the feature `trace` the tracer behind it, `trace/` |
//!
//! # Where it works
//! On 64-bit Linux. Elsewhere, under Miri, and with the feature `bypass` (for valgrind and the sanitizers, which then
//! see each block), every request goes to the large allocator. Two copies of the crate in one program are two
//! heaps: a block must go back to the copy it came from, or the other one aborts.

// The model checker's tests compile the files they check themselves (`tests/loom.rs`); its types can't be made in the
// constants that the crate as a whole needs.
#![cfg(not(pymalloc_loom))]

mod allocator;
mod arena;
mod arena_map;
mod arena_table;
mod bitmap;
mod cache;
mod check;
mod config;
mod fatal;
mod fork;
mod heap;
mod lock;
mod metadata;
mod observer;
mod os;
mod pool;
mod pool_set;
mod public;
mod remote;
mod size_class;
mod stats;
mod sync;
#[cfg(test)]
mod tests;
#[cfg(feature = "trace")]
pub mod trace;

pub use allocator::Pymalloc;
pub use check::Corruption;
pub use config::{ARENA_BYTES, CLASS_COUNT, POOL_BYTES, SMALL_MAX_BYTES};
pub use public::{flush_thread_cache, purge, self_check, stats};
pub use size_class::class_bytes;
pub use stats::{ClassStats, Stats};
