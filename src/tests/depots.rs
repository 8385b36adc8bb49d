//! How much waits in depots, and for whom.

use super::test_heap::{TestHeap, fill};
use crate::base::config::{ARENA_BYTES, DEPOT_BYTES_MAX, MAGAZINE_BYTES_MAX, POOL_BYTES};
use crate::cache::hardened::QUARANTINE_SLOTS;

#[test]
fn what_a_thread_frees_and_soon_allocates_again_waits_in_its_depot() {
    let test = TestHeap::new();
    let cache = test.attach();
    let bytes = DEPOT_BYTES_MAX / 2;
    fill(cache, 64, bytes).into_iter().for_each(|block| block.free(cache));
    let cached = test.blocks_cached() * 64;
    assert!(cached >= bytes - MAGAZINE_BYTES_MAX, "{cached} of {bytes} bytes");
    let mut before = Vec::new();
    for _ in 0..3 {
        let live = fill(cache, 64, bytes);
        let mut addresses: Vec<_> = live.iter().map(|block| block.start.addr()).collect();
        addresses.sort_unstable();
        // In the place of those in quarantine come others.
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
    let bytes = DEPOT_BYTES_MAX / 2;
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
fn depots_are_bounded_and_a_large_heap_that_shrinks_has_none() {
    let test = TestHeap::new();
    let cache = test.attach();
    let mut live = fill(cache, 64, 40 * ARENA_BYTES);
    live.drain(..live.len() / 2).for_each(|block| block.free(cache));
    let cached = test.blocks_cached() * 64;
    assert!((DEPOT_BYTES_MAX / 2..=DEPOT_BYTES_MAX + MAGAZINE_BYTES_MAX).contains(&cached), "{cached}");
    // Of each pool one block stays, so that no pool is given back.
    let (keep, free): (Vec<_>, Vec<_>) =
        live.into_iter().enumerate().partition(|(number, _)| number % (POOL_BYTES / 64) == 0);
    free.into_iter().for_each(|(_, block)| block.free(cache));
    let cached = test.blocks_cached() * 64;
    assert!(cached <= MAGAZINE_BYTES_MAX, "{cached}");
    keep.into_iter().for_each(|(_, block)| block.free(cache));
    cache.release();
}
