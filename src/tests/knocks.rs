//! Knocks: freeing threads collect for an owner that does not come.

use super::test_heap::{TestHeap, class, fill};

#[test]
fn half_a_pool_that_others_freed_comes_home_although_its_owner_sleeps() {
    // One pool: too few to be knocked at for their number. Its blocks are freed one by one, or by magazines.
    for (block_bytes, one_by_one) in [(512, true), (64, false)] {
        let test = TestHeap::new();
        let (sleeper, other) = (test.attach(), test.attach());
        let class = class(block_bytes);
        let half = class.pool_blocks() / 2;
        let live = fill(sleeper, block_bytes, class.pool_blocks() * block_bytes);
        let blocks_remote = || test.check().classes[class.number()].blocks_remote;
        for (number, block) in live.into_iter().enumerate() {
            block.free(other);
            if one_by_one {
                other.set.enter(test.heap, |inside| other.flush_all(inside));
                assert_eq!(blocks_remote(), (number + 1) % half);
            }
        }
        other.shrink();
        assert!(blocks_remote() < half);
        sleeper.release();
        other.release();
        assert_eq!(test.check().blocks_live(), 0);
    }
}
