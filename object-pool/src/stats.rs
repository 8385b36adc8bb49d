//! What a pool counts.

use std::fmt;

use super::stock::Counts;

/// Counts of an object pool since it was built, in objects.
///
/// `created + adopted = idle + in_use + dropped + detached` at any time. In use are also objects that are just being
/// created, or handed to a waiter that has not picked them up yet.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[non_exhaustive]
pub struct PoolStats {
    /// Made by the factory.
    pub created: u64,
    /// Put in from outside, by `release`.
    pub adopted: u64,
    /// Acquisitions that got an object that existed already.
    pub reused: u64,
    /// Dropped by the pool: over `max_idle`, or because their reset panicked.
    pub dropped: u64,
    /// Taken out for good, by `detach`.
    pub detached: u64,
    /// Idle now.
    pub idle: usize,
    /// In use now.
    pub in_use: usize,
    /// The most that existed at once, idle and in use.
    pub high_water: usize,
}

impl From<Counts> for PoolStats {
    fn from(counts: Counts) -> Self {
        let Counts { created, adopted, reused, dropped, detached, idle, total, high_water } = counts;
        // An object that moved from one magazine to another meanwhile may have been seen in both.
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
