//! The steps and the numbers of `docs/design/00-life-of-a-block.md`.

use super::test_heap::{TestHeap, alloc, class, slots};
use crate::base::config::{ARENA_BYTES, MAGAZINE_SLOTS_MAX, POOLS_PER_ARENA};
use crate::cache::capacity_max;
use crate::heap::arena::{Arena, PoolRef};
use crate::heap::arena_map::Leaf;
use crate::heap::pool::State;
use crate::heap::set::tag_class;
use crate::sync::Ordering;

/// The only arena's pool 0, and the free pools of the arena.
fn first_pool(test: &TestHeap) -> (PoolRef, usize) {
    test.heap.with_state(|state, _| {
        let mut arenas = state.arenas.iter();
        let arena = arenas.next().expect("an arena");
        assert!(arenas.next().is_none(), "one arena");
        (PoolRef::at_index(arena, 0), arena.free_count())
    })
}

#[test]
fn a_block_of_24_bytes_lives_as_the_first_page_of_the_design_says() {
    let class = class(24);
    assert_eq!((class.number(), class.block_bytes()), (2, 24));
    assert_eq!((class.pool_blocks(), class.bitmap_words()), (1365, 22));
    assert_eq!(class.full_word(21).count_ones(), 21);
    assert_eq!((size_of::<Leaf>(), capacity_max(class)), (64 << 10, MAGAZINE_SLOTS_MAX));
    if cfg!(not(feature = "hardened")) {
        assert_eq!(size_of::<Arena>(), 77_824);
    }

    let test = TestHeap::new();
    let cache = test.attach();
    assert_eq!((test.check().arenas_mapped, slots(cache, class)), (0, 8));
    let block = alloc(cache, class, 1).expect("memory");

    let (place, free) = first_pool(&test);
    let pool = place.pool();
    assert_eq!(free, POOLS_PER_ARENA - 1);
    assert_eq!((pool.used(), pool.touched_bytes(), pool.word(0).get()), (4, 96, 0b1111));
    assert_eq!((pool.state(), pool.words_free()), (State::Partial, (1 << 22) - 1));
    assert_eq!(tag_class(place.tag().load(Ordering::Relaxed)), Some(class));
    assert!(pool.start().addr().is_multiple_of(ARENA_BYTES));
    if cfg!(not(feature = "hardened")) {
        assert_eq!(block.start, pool.start());
    }
    assert_eq!(test.check().classes[2].blocks_cached, 3);

    let mut others: Vec<_> = (0..4).map(|seed| alloc(cache, class, seed).expect("memory")).collect();
    assert_eq!((slots(cache, class), pool.used()), (16, 12));
    others.drain(..).chain([block]).for_each(|block| block.free(cache));
    assert_eq!(pool.used(), 12);
    assert_eq!(class.block_at(72), Some(3));

    cache.release();
    assert_eq!((pool.used(), pool.state()), (4, State::Partial));
    assert_eq!((test.check().caches_parked, test.check().classes[2].blocks_cached), (1, 4));
    assert_eq!(test.purge(), ARENA_BYTES);
    let stats = test.check();
    assert_eq!((stats.arenas_mapped, stats.arenas_returned, stats.caches_parked), (0, 1, 1));
    assert_eq!((test.heap.bare_count(), test.heap.set_count()), (1, 0));
}
