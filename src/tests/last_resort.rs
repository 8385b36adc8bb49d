//! Null comes only after every door was entered.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;

use super::test_heap::{Live, TestHeap, alloc, alloc_zeroed, class, fill, take_by_spare_set};
use crate::base::config::{ARENA_BYTES, DEPOT_BLOCKS_MAX, POOL_BYTES};
use crate::cache::ThreadCache;
use crate::heap::ArenaLimits;

/// The three ways to a block; each must try every door.
type Need = fn(&'static ThreadCache, &TestHeap, usize) -> Option<Live>;
const NEEDS: [Need; 3] = [
    |cache, _, bytes| alloc(cache, class(bytes), 1),
    |cache, _, bytes| alloc_zeroed(cache, class(bytes), 1),
    |_, test, bytes| {
        take_by_spare_set(test.heap, class(bytes)).map(|block| Live::fill(block.start.as_ptr(), class(bytes), 1))
    },
];

/// A heap that may map one arena only. One cache uses all of its pools for blocks of 512 bytes.
fn full_heap() -> (TestHeap, &'static ThreadCache, &'static ThreadCache, Vec<Live>) {
    let test = TestHeap::new();
    let (other, cache) = (test.attach(), test.attach());
    test.heap.set_arena_limits(ArenaLimits::of_hard(1));
    let live = fill(other, 512, ARENA_BYTES);
    (test, other, cache, live)
}

fn end(test: &TestHeap, caches: [&'static ThreadCache; 2], live: impl IntoIterator<Item = Live>) {
    live.into_iter().for_each(|block| block.free(caches[0]));
    caches.into_iter().for_each(ThreadCache::release);
    assert_eq!(test.check().blocks_live(), 0);
}

#[test]
fn a_door_that_is_shut_is_waited_for_before_null() {
    for need in NEEDS {
        let (test, other, cache, mut live) = full_heap();
        // The set keeps this few empty pools.
        live.drain(..4 * POOL_BYTES / 512).for_each(|block| block.free(other));
        other.shrink();
        let has_answer = AtomicBool::new(false);
        let block = thread::scope(|scope| {
            other
                .set
                .enter(test.heap, |_| {
                    let asking = scope.spawn(|| {
                        let block = need(cache, &test, 64);
                        has_answer.store(true, Relaxed);
                        block
                    });
                    while !other.set.door.is_awaited() && !has_answer.load(Relaxed) {
                        thread::yield_now();
                    }
                    asking
                })
                .join()
                .expect("no panic")
        });
        end(&test, [other, cache], live.into_iter().chain([block.expect("a pool behind the other's door")]));
    }
}

#[test]
fn what_waits_in_the_depot_of_a_running_thread_is_used_before_null() {
    for need in NEEDS {
        let test = TestHeap::new();
        let (other, cache) = (test.attach(), test.attach());
        // As many blocks of 64 bytes as half the depots may hold.
        let waiting_bytes = DEPOT_BLOCKS_MAX / 2 * 64;
        let waiting = fill(other, 64, waiting_bytes);
        waiting.into_iter().for_each(|block| block.free(other));
        test.heap.set_arena_limits(ArenaLimits::of_hard(0));
        let mapped = test.check().arenas_mapped;
        let mut live = Vec::new();
        live.extend((0..ARENA_BYTES / 512).map_while(|seed| alloc(cache, class(512), seed as u64)));
        let missing = mapped * ARENA_BYTES - live.len() * 512;
        assert!(missing < waiting_bytes, "{missing} bytes of {mapped} arenas were not found");
        end(&test, [cache, other], live.into_iter().chain(need(cache, &test, 64)));
    }
}

#[test]
fn free_blocks_in_pools_of_running_threads_are_used_before_null() {
    for need in NEEDS {
        let (test, other, cache, mut live) = full_heap();
        // One block of each pool.
        let freed = POOL_BYTES / 512;
        let mut number = 0;
        live.retain_mut(|block| {
            number += 1;
            if number % freed != 0 {
                return true;
            }
            // SAFETY: the block is ours, and is given up.
            unsafe { other.free(block.class, block.start) };
            false
        });
        other.shrink();
        let had: Vec<_> = std::iter::from_fn(|| need(cache, &test, 512)).collect();
        assert_eq!(had.len(), ARENA_BYTES / POOL_BYTES);
        assert!(need(cache, &test, 504).is_none(), "each pool has blocks in use");
        end(&test, [other, cache], live.into_iter().chain(had));
    }
}
