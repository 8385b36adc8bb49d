//! What the statistics count, on a heap whose every block is known.

use super::test_heap::{TestHeap, alloc, class};
use crate::base::config::{POOL_BYTES, POOLS_PER_ARENA};

#[test]
fn what_was_never_used_is_counted_as_untouched() {
    let test = TestHeap::new();
    let cache = test.attach();
    let (kept, freed) = (alloc(cache, class(512), 1).expect("memory"), alloc(cache, class(64), 2).expect("memory"));
    let stats = test.check();
    assert_eq!((stats.pools_unused, stats.pools_untouched), (POOLS_PER_ARENA - 2, POOLS_PER_ARENA - 2));
    let unused_bytes = stats.pools_unused * POOL_BYTES;
    // A pool is committed as a whole.
    let touched = if test.memory.commits { 0..1 } else { 1..2 * POOL_BYTES };
    assert!(touched.contains(&(stats.bytes.untouched - unused_bytes)));
    assert_eq!(stats.bytes_live(), 512 + 64);

    freed.free(cache);
    cache.shrink();
    cache.set.enter(test.heap, |inside| inside.return_empty_pools(0));
    let stats = test.check();
    assert_eq!(test.dirty_pools(), 1);
    assert_eq!((stats.pools_unused, stats.pools_untouched), (POOLS_PER_ARENA - 1, POOLS_PER_ARENA - 2));
    kept.free(cache);
    cache.release();
}
