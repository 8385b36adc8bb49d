//! Knocks: freeing threads collect for an owner that does not come.

use super::test_heap::{TestHeap, alloc, class};

#[test]
fn half_a_pool_that_others_freed_comes_home_although_its_owner_sleeps() {
    let test = TestHeap::new();
    let (sleeper, other) = (test.attach(), test.attach());
    // One pool: too few to be knocked at for their number.
    let class = class(64);
    let live = (0..class.pool_blocks()).map(|seed| alloc(sleeper, class, seed as u64).expect("memory"));
    live.collect::<Vec<_>>().into_iter().for_each(|block| block.free(other));
    other.shrink();
    let left = test.check().classes[class.number()].blocks_remote;
    assert!(left < class.pool_blocks() / 2, "{left} blocks");
    sleeper.release();
    other.release();
    assert_eq!(test.check().blocks_live(), 0);
}
