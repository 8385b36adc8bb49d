//! A fast, dense, multi-threaded small-object allocator after CPython's pymalloc.
//!
//! ```
//! use pymalloc::Pymalloc;
//!
//! #[global_allocator]
//! static GLOBAL: Pymalloc = Pymalloc::new();
//! ```
//!
//! Memory comes from the OS in *arenas* of 2 MiB, arenas are cut into *pools* of 32 KiB, and a pool into *blocks* of
//! one of 64 *size classes*: 8, 16, 24 … 512 bytes. Larger requests go to the *large allocator*, by default the
//! system's `malloc`. Each thread has a cache with a *magazine* of free blocks a class; what it does not hold is in the
//! bitmaps of the pools that the thread owns.
//!
//! # Layers
//! A folder imports only from those below it, and not from its neighbours; `tests/programs/layers.rs` reads the source
//! and fails otherwise. `ARCHITECTURE.md` says where to find what.
//!
//! | layer, top to bottom | what |
//! |---|---|
//! | `api/` | [`Pymalloc`], where it sends each request, the functions that control the heap |
//! | `graph/` | the heap as a graph |
//! | `trace/`, `inspect/`, `purge/` | the tracer; counts, checks, reports, pictures; memory return on request |
//! | `cache/` | one thread's magazines and depots, its start and end; what the feature `hardened` adds |
//! | `pool_set/` | what is done to one thread's pools |
//! | `heap/`, `debug/` | what all threads share: arenas, pools, metadata, address map; the debug hooks |
//! | `protocols/` | what the model checker compiles: the lock, remote frees, the states of blocks |
//! | `sync` | the atomics that the protocols are written on |
//! | `base/` | tunables, size classes, bitmaps, text without allocation, last words |
//! | `observe/` | the seam by which cold paths tell observers of blocks |
//! | `os/`, `marks/` | the operating system; what valgrind and sanitizers are told |
//!
//! # Object pools
//! The layer above is a crate of its own, `pymalloc-object-pool`, which needs nothing of this one. The feature
//! `object-pool` shows it as `pymalloc::object_pool`.
//!
//! # Together
//! What any program runs of this crate (a thread's first allocation, refills, flushes, a thread's end; not failures,
//! forks and reports) lies in a section of its own, `.text_pymalloc`, which linkers put behind the program's code, next
//! to what every start runs; the tables of `size_class` lie with the data that a start writes. Linux maps a program's
//! file 16 OS pages at a time around a fault, so that what is spread over the program counts as 64 KiB a piece in its
//! RSS.
//!
//! # Where it works
//! On 64-bit Linux, with glibc or musl, and on 64-bit Windows. Elsewhere, under Miri, and in a program built with `RUSTFLAGS='--cfg
//! pymalloc_bypass'` (for valgrind and the sanitizers, which then see each block), every request goes to the large
//! allocator. Two copies of the crate in one program are two heaps: a block must go back to the copy it came from, or
//! the other one aborts.

// The model checker's tests compile the files they check themselves (`tests/loom.rs`); its types can't be made in the
// constants that the crate as a whole needs.
#![cfg(not(pymalloc_loom))]
// The documentation's site builds with a nightly compiler, and says which feature an item needs.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(docsrs, doc(auto_cfg(hide(pymalloc_loom))))]

mod api;
mod base;
mod cache;
pub mod debug;
#[cfg(feature = "graph")]
pub mod graph;
mod heap;
mod inspect;
mod marks;
mod observe;
mod os;
mod pool_set;
mod protocols;
pub mod purge;
mod sync;
#[cfg(test)]
mod tests;
#[doc(alias = "tracemalloc")]
#[cfg(feature = "trace")]
pub mod trace;

pub use api::allocator::Pymalloc;
pub use api::control::{allocated_blocks, flush_thread_cache, heap_map, purge, self_check, stats, thread_caches};
pub use api::limit::{limit, set_limit, set_soft_limit, soft_limit};
pub use api::medium::Medium;
#[cfg(feature = "__raw")]
#[doc(hidden)]
pub use api::raw;
pub use base::config::{
    ARENA_BYTES, CLASS_COUNT, MEDIUM_CLASS_COUNT, MEDIUM_MAX_BYTES, POOL_BYTES, RUN_MAX_BYTES, SMALL_MAX_BYTES,
};
pub use base::size_class::{class_bytes, class_number, usable_bytes};
pub use inspect::measure::measure;
pub use inspect::report::request_report;
#[doc(no_inline)]
pub use purge::{PurgeConfig, PurgeThread};
#[cfg(feature = "object-pool")]
#[doc(inline)]
pub use pymalloc_object_pool as object_pool;

/// What [`stats()`], [`thread_caches()`] and [`self_check()`] return.
pub mod stats {
    pub use crate::inspect::check::Corruption;
    pub use crate::inspect::stats::{ByteStats, CacheStats, CacheUse, ClassStats, Stats};
    pub use crate::os::SystemMalloc;
}

/// What [`heap_map()`] returns: every pool of the heap as data, and pictures of it.
pub mod heap_map {
    pub use crate::inspect::heap_map::{ArenaMap, HeapMap, PoolMap, PoolUse};
}

/// What [`measure()`] returns.
pub mod measure {
    pub use crate::inspect::measure::Measured;
}

/// The README's examples, which `cargo test` compiles and runs.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;
