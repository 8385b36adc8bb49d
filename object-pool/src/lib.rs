//! Object pools: typed, safe free lists of a program's own objects, on top of any allocator.
//!
//! ```
//! use pymalloc_object_pool::ObjectPool;
//!
//! let buffers = ObjectPool::builder(|| Vec::<u8>::with_capacity(4096)).reset(Vec::clear).max_idle(100).build()?;
//! let mut buffer = buffers.acquire();
//! buffer.extend_from_slice(b"some bytes");
//! drop(buffer); // back to the pool, and cleared
//! assert!(buffers.acquire().is_empty());
//! # Ok::<(), pymalloc_object_pool::PoolConfigError>(())
//! ```
//!
//! CPython keeps free lists of lists, dicts, floats and frames above its allocator (layer +3 of the picture in
//! `Objects/obmalloc.c`). This crate does that with [`ObjectPool`] for many threads and [`LocalPool`] for one. They
//! work with any allocator on any system. They are worth it for objects that are expensive to make;
//! `docs/object-pools.md` has figures. The allocator `pymalloc` exports this crate as `pymalloc::object_pool` (feature
//! `object-pool`).
//!
//! # How it works
//! Each thread has a *magazine* of up to 64 idle objects per pool, over a shared *stock* under a lock (Bonwick and
//! Adams, "Magazines and vmem", USENIX 2001). Acquiring and releasing touch only the magazine, without atomic
//! read-modify-writes. When the magazine is empty or full, half of what it can hold moves between it and the stock.
//! Sometimes a thread needs the objects in other threads' magazines: a bounded pool runs dry, a limit is reached, or
//! the pool is dropped. It then stops the others' fast path, by a fence that costs them nothing and costs it a system
//! call, and takes all objects to the stock. A thread that ends gives its magazine back.
//!
//! # Layers
//! | file | what |
//! |---|---|
//! | `barrier`, `process` | the system's part: the fence, and whether this is a forked child |
//! | `sync` | the atomics and the lock that the shared parts use; the model checker has a twin of it |
//! | `magazine` | a thread's idle objects, and the gate that keeps owners out |
//! | `waiters` | the queue for an object of a bounded pool |
//! | `stock/` | the lock, the limits, the counts; it decides where each object goes |
//! | `slots` | from a thread and a pool to a magazine |
//! | `objects` | objects: created, reset, returned, dropped |
//! | `pool`, `pooled`, `acquire`, `builder`, `stats` | the public interface |
//! | `local` | the pool of one thread, which needs none of the above |
//!
//! # Limits
//! - After `fork` in a program with threads, the child must not use the parent's pools, nor drop their guards: another
//!   thread may have held the stock's lock. (The same holds for every `std` mutex.) The child may exit, and may build
//!   pools of its own. Signal handlers must not use pools.
//! - Linux: if a program builds a pool and later enters a sandbox that forbids `membarrier(2)`, the pool must be built
//!   with [`magazine(0)`](PoolBuilder::magazine). Otherwise the program aborts when a thread needs other threads'
//!   magazines. A pool that is built inside the sandbox works without `membarrier`.
//! - A thread that holds a pool's lock may have to wait for a thread that was preempted inside its magazine. A visit
//!   there takes a dozen instructions. The waiting thread sleeps (50 µs, then longer, up to 0.8 ms at a time), so a
//!   thread of any priority finishes its visit. But priorities are not inherited, as with every `std` mutex.

// The model checker's tests compile the files they check themselves (`tests/loom.rs`).
#![cfg(not(pymalloc_loom))]

mod acquire;
mod barrier;
mod builder;
mod local;
mod magazine;
mod objects;
mod pool;
mod pooled;
mod process;
mod slots;
mod stats;
mod stock;
mod sync;
#[cfg(test)]
mod tests;
mod waiters;

pub use acquire::{Acquire, AcquireTimeout};
pub use builder::{PoolBuilder, PoolConfigError};
pub use local::{LocalPool, LocalPoolBuilder, LocalPooled};
pub use pool::ObjectPool;
pub use pooled::Pooled;
pub use stats::PoolStats;

/// The README's example, which `cargo test` compiles and runs.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;
