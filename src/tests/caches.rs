//! Which calls take the slow path; which blocks a thread cache hands out, and in which order.

use super::test_heap::{Live, TestHeap, alloc, class, fill, slow_calls};
use crate::base::config::{CACHE_LINE_BYTES, POOL_BYTES};
use crate::cache::ThreadCache;

#[test]
fn poisoned_caches_take_the_slow_path_for_every_call_and_healed_ones_do_not() {
    let test = TestHeap::new();
    let cache = test.attach();
    let warm = fill(cache, 32, 32 * 100);
    ThreadCache::poison_all(test.heap, true);
    let late = test.attach();
    for cache in [cache, late] {
        let before = slow_calls(cache);
        let live = fill(cache, 32, 32 * 50);
        live.into_iter().for_each(|block| block.free(cache));
        assert_eq!(slow_calls(cache) - before, 100);
    }
    ThreadCache::poison_all(test.heap, false);
    let before = slow_calls(cache);
    warm.into_iter().for_each(|block| block.free(cache));
    assert!(slow_calls(cache) - before < 50, "most frees are fast again");
    cache.release();
    late.release();
    assert_eq!(test.check().blocks_live(), 0);
}

#[test]
fn threads_that_free_neighbours_get_blocks_of_their_own() {
    let test = TestHeap::new();
    let (giver, one, other) = (test.attach(), test.attach(), test.attach());
    let mut gifts = fill(giver, 8, 16);
    for cache in [one, other] {
        gifts.pop().expect("a gift").free(cache);
    }
    let line = |block: &Live| block.start.addr() / CACHE_LINE_BYTES;
    let (first, second) = (alloc(one, class(8), 1).expect("memory"), alloc(other, class(8), 2).expect("memory"));
    assert_ne!(line(&first), line(&second));
    first.free(one);
    second.free(other);
    gifts.into_iter().for_each(|block| block.free(giver));
    assert_eq!(test.check().blocks_live(), 0);
}

#[test]
fn a_thread_that_flushed_its_cache_gets_no_blocks_that_others_had() {
    let test = TestHeap::new();
    let (giver, cache) = (test.attach(), test.attach());
    let mut gifts = fill(giver, 64, 640);
    alloc(cache, class(64), 1).expect("memory").free(cache);
    cache.shrink();
    gifts.pop().expect("a gift").free(cache);
    let block = alloc(cache, class(64), 2).expect("memory");
    assert_ne!(block.start.addr() / POOL_BYTES, gifts[0].start.addr() / POOL_BYTES);
    block.free(cache);
    gifts.into_iter().for_each(|block| block.free(giver));
    cache.release();
    giver.release();
}

#[cfg(not(feature = "hardened"))]
#[test]
fn refills_hand_out_neighbours_in_ascending_order() {
    let test = TestHeap::new();
    let cache = test.attach();
    let live = fill(cache, 64, POOL_BYTES / 2);
    let ascending = live.windows(2).filter(|pair| pair[0].start < pair[1].start).count();
    assert!(ascending * 4 >= live.len() * 3, "{ascending} of {}", live.len());
    live.into_iter().for_each(|block| block.free(cache));
    cache.release();
}
