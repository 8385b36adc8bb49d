//! Sweeps: what a pool remembers of the parts that were purged.

use super::test_heap::{Live, TestHeap, class, free_by_spare_set, take_by_spare_set};
use crate::base::config::POOL_BYTES;
use crate::base::config::PURGE_UNIT_BYTES;

#[test]
fn parts_that_were_purged_are_not_purged_again_and_zero_until_they_are_used() {
    let test = TestHeap::new();
    // Where OS pages are larger than a part, none is purged.
    let purges_parts = test.memory.purges_parts();
    let given_back = |bytes| if purges_parts { bytes } else { 0 };
    let class = class(256);
    let take = |seed| {
        let block = take_by_spare_set(test.heap, class).expect("memory");
        (Live::fill(block.start.as_ptr(), class, seed), block.zeroed)
    };
    let mut live: Vec<_> = (0..class.pool_blocks()).map(|seed| take(seed as u64).0).collect();
    // One block stays, in the last part.
    let last = live.pop().expect("the pool's last block");
    let free = |live: Vec<Live>| live.into_iter().for_each(|block| free_by_spare_set(test.heap, block));
    free(live);
    assert_eq!(test.purge(), given_back(POOL_BYTES - PURGE_UNIT_BYTES));
    assert_eq!(test.purge(), 0);
    // The first part is used again.
    let (first, zeroed) = take(0);
    // Where memory has to be committed, all parts of the pool are.
    let commits = test.memory.commits;
    assert_eq!(zeroed, purges_parts && !commits);
    free(vec![first]);
    let (first, zeroed) = take(1);
    assert!(!zeroed);
    free(vec![first]);
    assert_eq!(test.purge(), given_back(if commits { POOL_BYTES - PURGE_UNIT_BYTES } else { PURGE_UNIT_BYTES }));
    free(vec![last]);
    test.check();
}
