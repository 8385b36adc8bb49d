//! Tests of the parts. What the program sees is tested in `tests/object_pool.rs`, real interleavings in `tests/loom/`.

mod programs;
mod stock;

use crate::object_pool::PoolStats;
use crate::object_pool::stock::Counts;

/// A thread filled its magazine after that of another one, from which its object came, had been counted.
#[test]
fn the_counts_add_up_though_an_object_was_seen_twice() {
    let stats = PoolStats::from(Counts { created: 3, idle: 5, total: 3, ..Counts::default() });
    assert_eq!((stats.idle, stats.in_use), (3, 0));
}
