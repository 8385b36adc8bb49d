//! How many blocks wait in depots, and which thread gets them.

use super::test_heap::{TestHeap, fill};
use crate::base::config::{ARENA_BYTES, DEPOT_BLOCKS_MAX, MAGAZINE_BYTES_MAX, MAGAZINE_SLOTS_MAX};
use crate::cache::hardened::QUARANTINE_SLOTS;

#[test]
fn what_a_thread_frees_and_soon_allocates_again_waits_in_its_depot() {
    let test = TestHeap::new();
    let cache = test.attach();
    let bytes = DEPOT_BLOCKS_MAX / 2 * 64;
    fill(cache, 64, bytes).into_iter().for_each(|block| block.free(cache));
    let cached = test.blocks_cached() * 64;
    assert!(cached >= bytes - MAGAZINE_BYTES_MAX, "{cached} of {bytes} bytes");
    let mut before = Vec::new();
    for _ in 0..3 {
        let live = fill(cache, 64, bytes);
        let mut addresses: Vec<_> = live.iter().map(|block| block.start.addr()).collect();
        addresses.sort_unstable();
        // Other blocks replace those in quarantine.
        let others = addresses.iter().filter(|&address| before.binary_search(address).is_err()).count();
        assert!(
            before.is_empty() || others.saturating_sub(QUARANTINE_SLOTS) == 0,
            "{others} other blocks than those in the depot"
        );
        before = addresses;
        test.check();
        live.into_iter().for_each(|block| block.free(cache));
    }
    cache.shrink();
    cache.release();
    assert_eq!(test.blocks_cached(), 0);
}

#[test]
fn a_depot_holds_as_much_after_a_flush_as_before() {
    let test = TestHeap::new();
    let cache = test.attach();
    let bytes = DEPOT_BLOCKS_MAX / 2 * 64;
    for _ in 0..4 {
        fill(cache, 64, bytes).into_iter().for_each(|block| block.free(cache));
        let cached = test.blocks_cached() * 64;
        assert!(cached >= bytes - MAGAZINE_BYTES_MAX, "{cached} of {bytes} bytes");
        cache.shrink();
        assert_eq!(test.blocks_cached(), 0);
    }
    cache.release();
}

#[test]
fn a_depot_that_overflows_is_emptied_and_stays_so_until_its_class_is_allocated_from() {
    let test = TestHeap::new();
    let cache = test.attach();
    let live = fill(cache, 64, ARENA_BYTES);
    let mut most = 0;
    for block in live {
        block.free(cache);
        most = most.max(test.depot_blocks(cache));
    }
    let chunk = MAGAZINE_SLOTS_MAX / 2;
    assert!((DEPOT_BLOCKS_MAX - chunk..=DEPOT_BLOCKS_MAX).contains(&most), "{most} blocks at most");
    assert_eq!(test.depot_blocks(cache), 0);
    // An allocation opens it again.
    let bytes = DEPOT_BLOCKS_MAX / 2 * 64;
    fill(cache, 64, bytes).into_iter().for_each(|block| block.free(cache));
    assert!(test.depot_blocks(cache) > DEPOT_BLOCKS_MAX / 4);
    test.check();
    cache.release();
}
