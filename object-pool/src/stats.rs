//! The counts of a pool.

use std::fmt;

use super::stock::Counts;

/// Statistics of an object pool, counted in objects since it was built.
///
/// `created + adopted = idle + in_use + dropped + detached` at any time. Objects that are just being created count as
/// in use, and so do objects handed to a waiter that has not picked them up yet.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[non_exhaustive]
pub struct PoolStats {
    /// Objects made by the factory.
    pub created: u64,
    /// Objects put in from outside, by `release`.
    pub adopted: u64,
    /// Acquisitions that got an existing object.
    pub reused: u64,
    /// Objects that the pool dropped: `max_idle` objects were idle, or their reset panicked.
    pub dropped: u64,
    /// Objects taken out for good, by `detach`.
    pub detached: u64,
    /// Objects that are idle now.
    pub idle: usize,
    /// Objects that are in use now.
    pub in_use: usize,
    /// The most objects that existed at one time, idle and in use.
    pub high_water: usize,
}

impl From<Counts> for PoolStats {
    fn from(counts: Counts) -> Self {
        let Counts { created, adopted, reused, dropped, detached, idle, total, high_water } = counts;
        // An object that moved from one magazine to another meanwhile may have been counted in both.
        let idle = idle.min(total);
        Self { created, adopted, reused, dropped, detached, idle, in_use: total - idle, high_water }
    }
}

impl fmt::Display for PoolStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { created, adopted, reused, dropped, detached, idle, in_use, high_water } = self;
        write!(
            f,
            "{idle} idle, {in_use} in use, {high_water} at most; \
             {created} created, {reused} reused, {adopted} adopted, {dropped} dropped, {detached} detached"
        )
    }
}
