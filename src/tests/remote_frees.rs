//! What threads free into the pools of others that live.

use super::test_heap::{Live, TestHeap, alloc, class, fill, one_in};
use crate::base::config::{ARENA_BYTES, EMPTY_ARENAS_MIN, POOL_BYTES, WORD_BITS};
use crate::base::kind::Small;
use crate::heap::arena::PoolRef;
use crate::protocols::remote::Arrival;

#[test]
fn what_others_free_into_a_sleeping_threads_pools_comes_back_without_its_help() {
    let test = TestHeap::new();
    let (sleeper, other) = (test.attach(), test.attach());
    fill(sleeper, 64, 40 * ARENA_BYTES).into_iter().for_each(|block| block.free(other));
    // Without any further call.
    let stats = test.check();
    assert!(stats.arenas_mapped <= EMPTY_ARENAS_MIN + 2, "{stats}");
    other.shrink();
    test.purge();
    let stats = test.check();
    assert_eq!(stats.blocks_live(), 0);
    // The sleeper's magazines, at most.
    assert!(stats.arenas_mapped <= 1, "{stats}");
    sleeper.release();
    other.release();
}

#[test]
fn what_others_freed_into_a_threads_pools_is_used_before_a_new_pool() {
    let test = TestHeap::new();
    let (owner, other) = (test.attach(), test.attach());
    let live = fill(owner, 512, 2 * POOL_BYTES);
    // Too few of each pool for the freeing thread to collect them itself.
    let (freed, kept) = one_in(5, live);
    let count = freed.len();
    freed.into_iter().for_each(|block| block.free(other));
    other.shrink();
    let before = test.check().classes[63];
    assert_eq!(before.blocks_remote, count, "nobody collected them yet");
    let more: Vec<_> =
        (0..before.blocks_cached + before.blocks_free + count).map_while(|_| alloc(owner, class(512), 1)).collect();
    let after = test.check().classes[63];
    assert_eq!((after.pools, after.blocks_remote), (before.pools, 0));
    kept.into_iter().chain(more).for_each(|block| block.free(owner));
    owner.release();
    other.release();
    assert_eq!(test.check().blocks_live(), 0);
}

#[test]
fn bits_collected_before_their_count_are_no_corruption() {
    let test = TestHeap::new();
    let owner = test.attach();
    let blocks = fill(owner, 512, 2 * 512);
    let place = |block: &Live| {
        let address = block.start.addr();
        let arena = test.heap.map.arena_of(address).expect("an arena");
        let number = block.class.block_at(address % POOL_BYTES).expect("a block");
        (PoolRef::at_offset(arena, address), number / WORD_BITS, 1_u64 << (number % WORD_BITS))
    };
    let push = |pool: PoolRef| {
        // SAFETY: the pool has an owner, and the arrival just before was the first.
        unsafe { owner.set.inbox::<Small>().push(pool.remote().into(), pool.home()) };
    };
    let (first, second) = (place(&blocks[0]), place(&blocks[1]));
    let remote = first.0.remote();
    // One thread frees the first block; another has only set the second's bit when the owner collects.
    assert!(first.0.remote_word(first.1).free(first.2));
    assert_eq!(remote.arrive(1), Arrival::First);
    push(first.0);
    assert!(second.0.remote_word(second.1).free(second.2));
    owner.set.enter(test.heap, |inside| inside.collect());
    assert_eq!(remote.arrive(1), Arrival::First);
    push(second.0);
    let stats = test.check();
    assert_eq!((stats.blocks_live(), stats.classes[63].blocks_remote), (0, 0));
    owner.release();
    test.purge();
    assert_eq!(test.check().arenas_mapped, 0);
}
