//! Tests of the parts. What the program sees is tested in `tests/pools.rs`, real interleavings in `tests/loom.rs`.

mod programs;
mod stock;
#[cfg(all(target_os = "linux", not(miri)))]
mod stops;

use crate::PoolStats;
use crate::stock::Counts;

/// A thread filled its magazine after that of another one, from which its object came, had been counted.
#[test]
fn the_counts_add_up_though_an_object_was_seen_twice() {
    let stats = PoolStats::from(Counts { created: 3, idle: 5, total: 3, ..Counts::default() });
    assert_eq!((stats.idle, stats.in_use), (3, 0));
}
