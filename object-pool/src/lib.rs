//! Object pools: typed, safe free lists of a program's own objects, on top of whatever allocator it has.
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
//! `Objects/obmalloc.c`). Here that is [`ObjectPool`], for many threads, and [`LocalPool`], for one. They need neither
//! a particular allocator nor a particular system. They are worth it for objects that are dear to make: see
//! `docs/object-pools.md` for figures. The allocator `pymalloc` shows this crate as `pymalloc::object_pool` (feature
//! `object-pool`).
//!
//! # How it works
//! Each thread has a *magazine* of up to 64 idle objects per pool, over a shared *stock* under a lock (Bonwick and
//! Adams, "Magazines and vmem", USENIX 2001). Acquiring and releasing touch the magazine only, without atomic
//! read-modify-writes; when it is empty or full, half of what it holds moves between it and the stock. When what lies
//! in other threads' magazines is needed (a bounded pool runs dry, a limit is reached, the pool is dropped), one thread
//! stops the others' fast path, by a fence that costs them nothing and it a system call, and takes everything to the
//! stock. A thread that ends gives its magazine back.
//!
//! # Layers
//! | file | what |
//! |---|---|
//! | `barrier`, `process` | what is asked of the system: the fence, and whether this is a forked child |
//! | `sync` | what the shared parts are written on; the model checker has a twin of it |
//! | `magazine` | a thread's idle objects, and the gate that keeps owners out |
//! | `waiters` | the queue for an object of a bounded pool |
//! | `stock/` | the lock, the limits, the counts; all decisions where an object goes |
//! | `slots` | from a thread and a pool to a magazine |
//! | `objects` | objects: created, reset, returned, dropped |
//! | `pool`, `pooled`, `acquire`, `builder`, `stats` | what the program sees |
//! | `local` | the pool of one thread, which needs none of the above |
//!
//! # Limits
//! - After `fork` in a program with threads, a child must not use the parent's pools, nor drop their guards: another
//!   thread may have held the stock's lock. (So it is with every `std` mutex.) It may exit, and build pools of its own.
//!   Signal handlers must not use pools.
//! - Linux: a program that enters a sandbox without `membarrier(2)` after it built a pool builds its pools with
//!   [`magazine(0)`](PoolBuilder::magazine), or aborts when other threads' magazines are needed. Built inside the
//!   sandbox, a pool does without.
//! - A pool waits, with its lock held, for a thread that was preempted inside its magazine: a dozen instructions. The
//!   waiting thread sleeps (50 µs, then longer, up to 0.8 ms at a time), so that a thread of any priority comes to its
//!   end; but priorities are not inherited, here as with every `std` mutex.

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
