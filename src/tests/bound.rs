//! The bound on the memory that stays after the last free of a peak, without a further call: the figure of
//! `docs/design/10-memory-return.md`.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::test_heap::{Live, TestHeap, alloc, class};
use crate::base::config::{
    ARENA_BYTES, DIRTY_POOLS_MIN, EMPTY_ARENAS_MIN, INBOX_KNOCK_POOLS, POOL_BYTES, SET_EMPTY_POOLS_MAX, SWEEP_MIN_BYTES,
};
use crate::cache::hardened::QUARANTINE_SLOTS;
use crate::cache::{ThreadCache, capacity_max};

const PEAK_BYTES: usize = 384 << 20;

/// One peak at a time: where memory has to be committed, the parts that go back are mappings of their own, of which
/// Linux allows 65,530 to a process.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn one_at_a_time() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Most bytes of arenas that may stay resident with `caches` caches, one of which had a peak of blocks of these sizes.
/// A pool that a set owns keeps the others of its OS page.
fn bound_bytes(caches: usize, block_bytes: &[usize], pools_of_os_page: usize) -> usize {
    let magazine_blocks: usize = block_bytes.iter().map(|&bytes| capacity_max(class(bytes)) + QUARANTINE_SLOTS).sum();
    let pinned_bytes = caches * magazine_blocks * POOL_BYTES;
    let set_pools = SET_EMPTY_POOLS_MAX + INBOX_KNOCK_POOLS as usize - 1;
    let heap_bytes = (EMPTY_ARENAS_MIN + 1) * ARENA_BYTES + DIRTY_POOLS_MIN * POOL_BYTES;
    (pinned_bytes.max(SWEEP_MIN_BYTES) + caches * set_pools * POOL_BYTES) * pools_of_os_page + heap_bytes
}

/// Makes a peak of blocks of these sizes, the same number of bytes of each, in random order.
fn peak(cache: &ThreadCache, block_bytes: &[usize]) -> Vec<Live> {
    let mut live = Vec::new();
    for &bytes in block_bytes {
        let blocks = PEAK_BYTES / block_bytes.len() / bytes;
        live.extend((0..blocks).map(|seed| alloc(cache, class(bytes), seed as u64).expect("memory")));
    }
    let mut random = 1_usize;
    for last in (1..live.len()).rev() {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        live.swap(last, (random >> 32) % (last + 1));
    }
    live
}

fn assert_little_stays(test: &TestHeap, caches: usize, block_bytes: &[usize], live: Vec<Live>, freer: &ThreadCache) {
    let peak_bytes = test.memory.resident_bytes();
    assert!(peak_bytes >= PEAK_BYTES);
    live.into_iter().for_each(|block| block.free(freer));
    let bound = bound_bytes(caches, block_bytes, test.memory.pools_of_os_page());
    let left = test.memory.resident_bytes();
    println!("{block_bytes:?}: peak {} MiB, bound {} MiB, left {} KiB", peak_bytes >> 20, bound >> 20, left >> 10);
    assert!(bound < PEAK_BYTES / 2, "the bound says something");
    assert!(left <= bound, "{left} bytes are left, more than {bound}");
    test.check();
}

/// Without optimisation, the mixture only: a peak takes ten seconds then.
const SIZES: &[&[usize]] =
    if cfg!(debug_assertions) { &[&[24, 264, 400, 512]] } else { &[&[64], &[512], &[24, 264, 400, 512]] };

#[test]
fn no_more_than_the_bound_stays_of_a_peak_that_its_thread_freed() {
    let _one = one_at_a_time();
    for &block_bytes in SIZES {
        let test = TestHeap::new();
        let cache = test.attach();
        let live = peak(cache, block_bytes);
        assert_little_stays(&test, 1, block_bytes, live, cache);
    }
}

#[test]
fn no_more_than_the_bound_stays_of_a_peak_of_a_sleeping_thread() {
    let _one = one_at_a_time();
    for &block_bytes in SIZES {
        let test = TestHeap::new();
        let (sleeper, other) = (test.attach(), test.attach());
        let live = peak(sleeper, block_bytes);
        assert_little_stays(&test, 2, block_bytes, live, other);
    }
}

#[test]
fn no_more_than_the_bound_stays_of_a_peak_freed_in_the_order_of_its_addresses() {
    let _one = one_at_a_time();
    let test = TestHeap::new();
    let cache = test.attach();
    let sizes = SIZES[0];
    let mut live = peak(cache, sizes);
    live.sort_unstable_by_key(|block| block.start.addr());
    assert_little_stays(&test, 1, sizes, live, cache);
}
