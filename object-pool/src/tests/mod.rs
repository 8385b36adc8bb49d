//! Tests of the parts. `tests/pools.rs` tests the public interface, `tests/loom.rs` all interleavings.

mod programs;
mod stock;
#[cfg(all(target_os = "linux", not(miri)))]
mod stops;

use crate::PoolStats;
use crate::stock::Counts;

/// The counts saw an object in one magazine, then again in another, because it moved meanwhile.
#[test]
fn the_counts_add_up_though_an_object_was_seen_twice() {
    let stats = PoolStats::from(Counts { created: 3, idle: 5, total: 3, ..Counts::default() });
    assert_eq!((stats.idle, stats.in_use), (3, 0));
}
