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
//! system's `malloc`. Each thread has a cache with one *magazine* of free blocks per class. Its other free blocks are
//! in the pools that it owns; a bitmap says which blocks of a pool are free.
//!
//! # Layers
//! A folder imports only from the folders below it, not from its neighbours; the test `tests/programs/layers.rs` checks
//! that. `ARCHITECTURE.md` says which file has what.
//!
//! | layer, top to bottom | contents |
//! |---|---|
//! | `api/` | [`Pymalloc`], the route of each request, the functions that control the heap |
//! | `graph/` | the heap as a graph |
//! | `trace/`, `inspect/`, `purge/` | the tracer; counts, checks, reports, pictures; memory return on request |
//! | `cache/` | one thread's magazines and depots, its start and end; what the feature `hardened` adds |
//! | `pool_set/` | operations on one thread's set of pools |
//! | `heap/`, `debug/` | what all threads share: arenas, pools, metadata, address map; the debug hooks |
//! | `protocols/` | the protocols that the model checker compiles: the lock, remote frees, the states of blocks |
//! | `sync` | the atomics that the protocols use |
//! | `base/` | tunables, size classes, bitmaps, text without allocation, messages before an abort |
//! | `observe/` | the hooks through which cold paths report blocks to observers |
//! | `os/`, `marks/` | the operating system; marks for valgrind and sanitizers |
//!
//! # Object pools
//! Pools of a program's own objects are a crate of their own, `pymalloc-object-pool`, which works with any allocator.
//! The feature `object-pool` exports it as `pymalloc::object_pool`.
//!
//! # Code placement
//! The code of this crate that every program runs is in a section of its own, `.text_pymalloc`: a thread's first
//! allocation, refills, flushes, and a thread's end. Failures, forks and reports are not in it. Linkers put this
//! section behind the program's code, next to the code that runs at every start. The tables of `size_class` are beside
//! the data that a start writes. The reason: at a page fault, Linux maps 16 OS pages of a program's file at once. Code
//! that is spread over the program would add 64 KiB per piece to its RSS.
//!
//! # Where it works
//! The allocator works on 64-bit Linux, with glibc or musl, and on 64-bit Windows. On other platforms, under Miri, and
//! in a program built with `RUSTFLAGS='--cfg pymalloc_bypass'` (for valgrind and the sanitizers, which then see each
//! block), every request goes to the large allocator. Two copies of the crate in one program are two heaps. A block
//! must be freed by the copy that allocated it; the other copy aborts.

// The crate as a whole does not compile for the model checker: it needs constants, in which the model checker's types
// can't be made. The model checker's tests compile the files that they check themselves (`tests/loom.rs`).
#![cfg(not(pymalloc_loom))]
// On Windows there is no server, no graph, and one kind of module.
#![cfg_attr(all(windows, feature = "trace"), allow(dead_code, unreachable_pub, unused_imports))]
// docs.rs builds with a nightly compiler, and shows which feature an item needs.
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

/// Statistics of the heap: the types that [`stats()`], [`thread_caches()`] and [`self_check()`] return.
///
/// ```
/// # #[global_allocator] static GLOBAL: pymalloc::Pymalloc = pymalloc::Pymalloc::new();
/// use pymalloc::stats::Stats;
///
/// let words = vec![String::from("a block"); 100];
/// let stats: Stats = pymalloc::stats();
/// # if !cfg!(pymalloc_bypass) {
/// assert!(stats.blocks_live() >= words.len());
/// # }
/// println!("{stats}");
/// ```
pub mod stats {
    pub use crate::inspect::check::Corruption;
    pub use crate::inspect::stats::{ByteStats, CacheStats, CacheUse, ClassStats, Stats};
    pub use crate::os::SystemMalloc;
}

/// Maps of the heap: the types that [`heap_map()`] returns, every pool as data, and pictures of it.
///
/// ```
/// # #[global_allocator] static GLOBAL: pymalloc::Pymalloc = pymalloc::Pymalloc::new();
/// use pymalloc::heap_map::PoolUse;
///
/// let map = pymalloc::heap_map();
/// let pools = map.arenas.iter().flat_map(|arena| &arena.pools);
/// let unused = pools.filter(|pool| pool.used_for == PoolUse::Unused).count();
/// println!("{unused} pools are free");
/// ```
pub mod heap_map {
    pub use crate::inspect::heap_map::{ArenaMap, HeapMap, PoolMap, PoolUse};
}

/// Measurements of a closure: the type that [`measure()`] returns.
///
/// ```
/// # #[global_allocator] static GLOBAL: pymalloc::Pymalloc = pymalloc::Pymalloc::new();
/// use pymalloc::measure::Measured;
///
/// let (numbers, measured): (_, Measured) = pymalloc::measure(|| vec![1_u64; 10]);
/// assert_eq!((measured.blocks_live, measured.bytes_live), (1, 80));
/// # drop(numbers);
/// ```
pub mod measure {
    pub use crate::inspect::measure::Measured;
}

/// The README's examples, which `cargo test` compiles and runs.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;

/// The examples of the page on using it, likewise.
#[cfg(doctest)]
#[doc = include_str!("../docs/using.md")]
pub struct Using;
