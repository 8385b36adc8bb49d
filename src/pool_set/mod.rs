//! A pool set: the pools that belong to one thread, and every operation on them.
//!
//! A set is immortal: once made, it is never unmapped. Its thread owns it while it lives. When the thread ends, the set
//! is *parked* with all its pools, until a thread that starts later *adopts* it whole. Meanwhile, living threads
//! *steal* its partly free pools, one by one, instead of taking new ones. A parked set that has no pools and no cached
//! blocks is *bare*, and no longer walked (see `heap/register.rs`).
//!
//! # Call tree, by files
//! ```text
//! take.rs       take                blocks of a class, for a refill
//! hand_over.rs  ├─ collect          pools that other threads freed into
//!               ├─ steal            partly free pools of parked sets
//! pools.rs      ├─ open_empty       an empty pool of the set
//!               └─ open_new         a pool of the fullest arena, or of a new one
//! give.rs       give                blocks of a class, from a flush
//!               ├─ give_alone, give_neighbours   own pools: clear bits
//! pools.rs      │  └─ retire        the pool is empty: keep it, or return some
//!               └─ give_remote      pools of other sets: remote bits, count, inbox
//! knock.rs         └─ knock         collect for an owner that does not come
//! pools.rs      sweep               few blocks left: purge the free parts of partial pools
//! hand_over.rs  park, adopt         a thread ends, another takes over
//! ```

mod give;
mod hand_over;
mod inside;
mod knock;
mod pools;
mod take;

#[cfg(feature = "hardened")]
pub(crate) use give::misplaced;
pub(crate) use inside::Inside;
pub(crate) use knock::knock_at_all;
