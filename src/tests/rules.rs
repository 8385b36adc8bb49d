//! The rules by which memory moves, one test a rule.

use std::sync::atomic::Ordering;

use super::test_heap::{Live, TestHeap, alloc, class};
use crate::arena::Arena;
use crate::cache::ThreadCache;
use crate::config::{
    ARENA_BYTES, DEPOT_BYTES_MAX, DIRTY_POOLS_MIN, DIRTY_POOLS_SHARE, EMPTY_ARENAS_MIN, FAULT_IN_FROM_POOLS,
    HUGE_FROM_ARENAS, MAGAZINE_BYTES_MAX, POOL_BYTES, POOLS_PER_ARENA, SET_EMPTY_POOLS_MAX,
};
use crate::hardened::QUARANTINE_SLOTS;

fn fill(cache: &ThreadCache, block_bytes: usize, bytes: usize) -> Vec<Live> {
    (0..bytes / block_bytes).map(|seed| alloc(cache, class(block_bytes), seed as u64).expect("memory")).collect()
}

#[test]
fn the_fullest_arena_is_used_first_so_that_the_emptiest_drains() {
    let test = TestHeap::new();
    let cache = test.attach();
    let pool_of = |block: &Live| block.start.addr() / POOL_BYTES;
    let arena_of = |block: &Live| block.start.addr() / ARENA_BYTES;
    let mut live = fill(cache, 512, 4 * ARENA_BYTES);
    let arenas: std::collections::BTreeSet<_> = live.iter().map(arena_of).collect();
    let arenas: Vec<_> = arenas.into_iter().collect();
    // Of the first arena three quarters go, of the second one quarter.
    let (freed, kept): (Vec<_>, Vec<_>) = live.into_iter().partition(|block| {
        let quarter = pool_of(block) % POOLS_PER_ARENA / (POOLS_PER_ARENA / 4);
        arena_of(block) == arenas[0] && quarter < 3 || arena_of(block) == arenas[1] && quarter < 1
    });
    freed.into_iter().for_each(|block| block.free(cache));
    cache.shrink();
    test.purge();
    live = fill(cache, 256, ARENA_BYTES / 8);
    assert!(live.iter().all(|block| arena_of(block) == arenas[1]), "the fuller arena serves");
    live.into_iter().chain(kept).for_each(|block| block.free(cache));
    cache.release();
}

#[test]
fn after_a_peak_all_but_a_bounded_number_of_arenas_go_back_at_once() {
    let test = TestHeap::new();
    let cache = test.attach();
    for _ in 0..3 {
        let live = fill(cache, 64, 40 * ARENA_BYTES);
        assert!(test.check().arenas_mapped >= 40);
        live.into_iter().for_each(|block| block.free(cache));
        let stats = test.check();
        // Besides those kept, the ones with the empty pools that the thread keeps, and with the blocks in its depot: those
        // that it freed first, near each other because it allocated them so; with the feature `hardened` in random order,
        // so each peak scatters them a little more.
        let scattered = if cfg!(feature = "hardened") { 8 } else { 0 };
        let kept = EMPTY_ARENAS_MIN + 2 + DEPOT_BYTES_MAX.div_ceil(ARENA_BYTES) + scattered;
        assert!(stats.arenas_mapped <= kept, "{stats}");
        assert!(stats.pools_empty <= SET_EMPTY_POOLS_MAX, "{stats}");
    }
    cache.release();
}

/// Blocks in magazines and depots, as the self-check counts them.
fn blocks_cached(test: &TestHeap) -> usize {
    test.check().classes.iter().map(|class| class.blocks_cached).sum()
}

#[test]
fn what_a_thread_frees_and_soon_allocates_again_waits_in_its_depot() {
    let test = TestHeap::new();
    let cache = test.attach();
    let bytes = DEPOT_BYTES_MAX / 2;
    fill(cache, 64, bytes).into_iter().for_each(|block| block.free(cache));
    let cached = blocks_cached(&test) * 64;
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
    assert_eq!(blocks_cached(&test), 0);
}

#[test]
fn a_depot_holds_as_much_after_a_flush_as_before() {
    let test = TestHeap::new();
    let cache = test.attach();
    let bytes = DEPOT_BYTES_MAX / 2;
    for _ in 0..4 {
        fill(cache, 64, bytes).into_iter().for_each(|block| block.free(cache));
        let cached = blocks_cached(&test) * 64;
        assert!(cached >= bytes - MAGAZINE_BYTES_MAX, "{cached} of {bytes} bytes");
        cache.shrink();
        assert_eq!(blocks_cached(&test), 0);
    }
    cache.release();
}

#[test]
fn a_class_that_grows_gets_its_pools_memory_at_once_and_one_that_is_small_does_not() {
    let test = TestHeap::new();
    let cache = test.attach();
    let populates = || test.memory.populates.load(Ordering::Relaxed);
    let mut live = Vec::new();
    for block_bytes in [64, 128, 512] {
        live.extend(fill(cache, block_bytes, FAULT_IN_FROM_POOLS as usize * POOL_BYTES));
    }
    assert_eq!(populates(), 0);
    live.extend(fill(cache, 64, 8 * POOL_BYTES));
    assert!((7..=9).contains(&populates()), "{}", populates());
    // Pools that have their memory are not asked for it again.
    live.into_iter().for_each(|block| block.free(cache));
    let before = populates();
    fill(cache, 64, 8 * POOL_BYTES).into_iter().for_each(|block| block.free(cache));
    assert_eq!(populates(), before);
    cache.release();
}

#[test]
fn depots_are_bounded_and_a_large_heap_that_shrinks_has_none() {
    let test = TestHeap::new();
    let cache = test.attach();
    let mut live = fill(cache, 64, 40 * ARENA_BYTES);
    live.drain(..live.len() / 2).for_each(|block| block.free(cache));
    let cached = blocks_cached(&test) * 64;
    assert!((DEPOT_BYTES_MAX / 2..=DEPOT_BYTES_MAX + MAGAZINE_BYTES_MAX).contains(&cached), "{cached}");
    // Of each pool one block stays, so that no pool is given back.
    let (keep, free): (Vec<_>, Vec<_>) =
        live.into_iter().enumerate().partition(|(number, _)| number % (POOL_BYTES / 64) == 0);
    free.into_iter().for_each(|(_, block)| block.free(cache));
    let cached = blocks_cached(&test) * 64;
    assert!(cached <= MAGAZINE_BYTES_MAX, "{cached}");
    keep.into_iter().for_each(|(_, block)| block.free(cache));
    cache.release();
}

#[test]
fn freeing_and_taking_around_an_arena_boundary_does_not_map_and_unmap() {
    let test = TestHeap::new();
    let cache = test.attach();
    let base = fill(cache, 512, 2 * ARENA_BYTES);
    // Twice, because the second time some of them may be in quarantine, and others are needed.
    for _ in 0..2 {
        fill(cache, 512, ARENA_BYTES).into_iter().for_each(|block| block.free(cache));
    }
    let ever = test.check().arenas_ever;
    for _ in 0..20 {
        fill(cache, 512, ARENA_BYTES).into_iter().for_each(|block| block.free(cache));
    }
    assert_eq!(test.check().arenas_ever, ever);
    base.into_iter().for_each(|block| block.free(cache));
    cache.release();
}

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
fn a_survivor_uses_the_partly_free_pools_of_63_ended_threads() {
    let test = TestHeap::new();
    let caches: Vec<_> = (0..63).map(|_| test.attach()).collect();
    let mut kept = Vec::new();
    let mut freed_bytes = 0;
    for cache in &caches {
        for (index, block) in fill(cache, 48, ARENA_BYTES / 4).into_iter().enumerate() {
            if index % 2 == 0 {
                freed_bytes += 48;
                block.free(cache);
            } else {
                kept.push(block);
            }
        }
    }
    caches.into_iter().for_each(ThreadCache::release);
    let before = test.check();
    let survivor = test.attach();
    let live = fill(survivor, 48, freed_bytes);
    let after = test.check();
    assert!(after.arenas_mapped <= before.arenas_mapped + 1, "{} → {}", before.arenas_mapped, after.arenas_mapped);
    live.into_iter().chain(kept).for_each(|block| block.free(survivor));
    survivor.release();
    test.purge();
    assert_eq!(test.check().arenas_mapped, 0);
}

#[test]
fn a_new_thread_adopts_what_an_ended_one_left() {
    let test = TestHeap::new();
    for _ in 0..100 {
        let cache = test.attach();
        fill(cache, 128, 3 * POOL_BYTES).into_iter().for_each(|block| block.free(cache));
        cache.release();
    }
    let stats = test.check();
    assert_eq!((stats.caches_live, stats.caches_parked, stats.arenas_ever), (0, 1, 1));
}

#[test]
fn poisoned_caches_take_the_slow_path_for_every_call_and_healed_ones_do_not() {
    let test = TestHeap::new();
    let cache = test.attach();
    let warm = fill(cache, 32, 32 * 100);
    ThreadCache::poison_all(test.heap, true);
    let late = test.attach();
    for cache in [cache, late] {
        let before = cache.slow_calls();
        let live = fill(cache, 32, 32 * 50);
        live.into_iter().for_each(|block| block.free(cache));
        assert_eq!(cache.slow_calls() - before, 100);
    }
    ThreadCache::poison_all(test.heap, false);
    let before = cache.slow_calls();
    warm.into_iter().for_each(|block| block.free(cache));
    assert!(cache.slow_calls() - before < 50, "most frees are fast again");
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
    let line = |block: &Live| block.start.addr() / crate::config::CACHE_LINE_BYTES;
    let (first, second) = (alloc(one, class(8), 1).expect("memory"), alloc(other, class(8), 2).expect("memory"));
    assert_ne!(line(&first), line(&second));
    first.free(one);
    second.free(other);
    gifts.into_iter().for_each(|block| block.free(giver));
    assert_eq!(test.check().blocks_live(), 0);
}

#[test]
fn what_is_left_scattered_of_a_peak_does_not_keep_the_peaks_memory() {
    let test = TestHeap::new();
    let cache = test.attach();
    let (mut kept, mut freed) = (Vec::new(), Vec::new());
    for (index, block) in fill(cache, 256, 64 << 20).into_iter().enumerate() {
        if index % 100 == 0 { kept.push(block) } else { freed.push(block) }
    }
    let before = test.heap.bytes_given_back();
    freed.into_iter().for_each(|block| block.free(cache));
    let given_back = test.heap.bytes_given_back() - before;
    assert!(given_back > 40 << 20, "{} MiB", given_back >> 20);
    // What is used again is sound, and zeroed where that is asked for.
    test.check();
    let zeroed = |seed| super::test_heap::alloc_zeroed(cache, class(256), seed).expect("memory");
    let again: Vec<_> = (0..10_000).map(zeroed).collect();
    test.check();
    kept.iter().for_each(Live::verify);
    again.into_iter().chain(kept).for_each(|block| block.free(cache));
    cache.release();
    test.purge();
    assert_eq!(test.check().arenas_mapped, 0);
}

#[test]
fn a_set_is_swept_again_when_half_as_much_is_left() {
    let test = TestHeap::new();
    let cache = test.attach();
    let (mut few, mut more, mut freed) = (Vec::new(), Vec::new(), Vec::new());
    for (index, block) in fill(cache, 256, 64 << 20).into_iter().enumerate() {
        match index {
            _ if index % 100 == 0 => few.push(block),
            _ if index % 40 == 0 => more.push(block),
            _ => freed.push(block),
        }
    }
    freed.into_iter().for_each(|block| block.free(cache));
    // The first sweep: below one byte in 32.
    while test.heap.bytes_given_back() < 16 << 20 {
        more.pop().expect("a sweep before the last").free(cache);
    }
    let (before, left) = (test.heap.bytes_given_back(), more.len());
    assert!(left > 4000, "{left} blocks");
    more.into_iter().for_each(|block| block.free(cache));
    let given_back = test.heap.bytes_given_back() - before;
    assert!(given_back > 6 << 20, "{given_back} bytes for {left} blocks");
    test.check();
    few.into_iter().for_each(|block| block.free(cache));
    cache.release();
}

#[test]
fn small_sets_are_swept_when_the_program_purges_and_not_by_themselves_afterwards() {
    let test = TestHeap::new();
    let cache = test.attach();
    let live = fill(cache, 256, 4 << 20);
    test.purge();
    let purges = test.memory.purges.load(Ordering::Relaxed);
    let (mut kept, mut freed) = (Vec::new(), Vec::new());
    for (index, block) in live.into_iter().enumerate() {
        if index % 100 == 0 { kept.push(block) } else { freed.push(block) }
    }
    freed.into_iter().for_each(|block| block.free(cache));
    assert_eq!(test.memory.purges.load(Ordering::Relaxed), purges);
    assert!(test.purge() > 1 << 20);
    kept.into_iter().for_each(|block| block.free(cache));
    cache.release();
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

#[test]
fn pools_that_others_free_into_after_their_thread_ended_are_used_again() {
    let test = TestHeap::new();
    let (ended, other) = (test.attach(), test.attach());
    let mut live = fill(ended, 512, 100 * POOL_BYTES);
    ended.release();
    // Of each pool one block stays.
    let blocks = POOL_BYTES / 512;
    let kept: Vec<_> = live.iter().map(|block| block.start.addr() / POOL_BYTES).collect();
    let mut seen = std::collections::BTreeSet::new();
    let stay: Vec<bool> = kept.into_iter().map(|pool| seen.insert(pool)).collect();
    let mut rest = Vec::new();
    for (block, stay) in live.drain(..).zip(stay) {
        if stay { rest.push(block) } else { block.free(other) }
    }
    let before = test.check().classes[63].pools;
    let more = fill(other, 512, 20 * POOL_BYTES);
    let after = test.check().classes[63].pools;
    assert_eq!(more.len(), 20 * blocks);
    assert!(after <= before + 1, "{before} pools, then {after}");
    rest.into_iter().chain(more).for_each(|block| block.free(other));
    other.release();
}

#[test]
fn bits_collected_before_their_count_are_no_corruption() {
    use crate::arena::PoolRef;
    use crate::config::WORD_BITS;
    use crate::remote::Arrival;

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
        unsafe { owner.set.inbox().push(pool.remote(), pool.arena().cast()) };
    };
    let (first, second) = (place(&blocks[0]), place(&blocks[1]));
    // SAFETY: the pool has an owner.
    let remote = unsafe { first.0.remote().as_ref() };
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

#[test]
fn purge_tells_how_much_it_gave_back() {
    let test = TestHeap::new();
    let caches: Vec<_> = (0..64).map(|_| test.attach()).collect();
    for cache in &caches {
        fill(cache, 512, 16 * POOL_BYTES).into_iter().for_each(|block| block.free(cache));
        cache.shrink();
    }
    let before = test.check();
    let used = before.arenas_mapped * POOLS_PER_ARENA - before.pools_unused;
    assert!(test.purge() >= used * POOL_BYTES);
    assert_eq!(test.check().arenas_mapped, 0);
}

#[test]
fn many_threads_keep_few_empty_pools_each() {
    let test = TestHeap::new();
    let caches: Vec<_> = (0..1000).map(|_| test.attach()).collect();
    for cache in &caches {
        fill(cache, 512, 8 * POOL_BYTES).into_iter().for_each(|block| block.free(cache));
    }
    let kept = test.check().pools_empty;
    assert!(kept <= crate::config::EMPTY_POOLS_BUDGET + 1000 * crate::config::SET_EMPTY_POOLS_MIN, "{kept}");
    caches.into_iter().for_each(ThreadCache::release);
    assert_eq!(test.check().pools_empty, 0);
}

/// Frees all but one block of each arena; returns those.
fn keep_one_of_each_arena(live: Vec<Live>, cache: &ThreadCache) -> Vec<Live> {
    let mut seen = std::collections::BTreeSet::new();
    let (kept, freed): (Vec<_>, Vec<_>) =
        live.into_iter().partition(|block| seen.insert(block.start.addr() / ARENA_BYTES));
    freed.into_iter().for_each(|block| block.free(cache));
    kept
}

#[test]
fn an_arena_with_holes_gets_no_huge_page_again() {
    let test = TestHeap::new();
    let cache = test.attach();
    let kept = keep_one_of_each_arena(fill(cache, 512, (HUGE_FROM_ARENAS + 6) * ARENA_BYTES), cache);
    let huge = test.memory.huge.load(Ordering::Relaxed);
    assert!((5..=7).contains(&huge), "{huge} arenas");
    cache.shrink();
    test.purge();
    assert_eq!(test.memory.no_longer_huge.load(Ordering::Relaxed), huge);
    kept.into_iter().for_each(|block| block.free(cache));
    cache.release();
}

#[test]
fn free_pools_kept_while_many_were_in_use_are_purged_when_few_are() {
    let test = TestHeap::new();
    let cache = test.attach();
    let dirty_pools = || {
        // SAFETY: metadata is never unmapped.
        let dirty = |arena: std::ptr::NonNull<Arena>| unsafe { arena.as_ref() }.dirty.get().count_ones() as usize;
        test.heap.with_state(|state, _| state.arenas.iter().map(dirty).sum::<usize>())
    };
    // Of so many pools in use, four times the least may stay free and dirty.
    let peak_pools = 4 * DIRTY_POOLS_MIN * DIRTY_POOLS_SHARE;
    let kept = keep_one_of_each_arena(fill(cache, 512, peak_pools * POOL_BYTES), cache);
    let dirty = dirty_pools();
    assert!((DIRTY_POOLS_MIN / 2..=2 * DIRTY_POOLS_MIN).contains(&dirty), "{dirty} pools");
    test.check();
    kept.into_iter().for_each(|block| block.free(cache));
    cache.release();
}

#[test]
fn what_others_freed_into_the_pools_of_an_ended_thread_is_used_before_a_new_pool() {
    let test = TestHeap::new();
    let (ended, other) = (test.attach(), test.attach());
    let live = fill(ended, 512, 8 * POOL_BYTES);
    ended.release();
    // Too few of each pool, and of too few pools, for the freeing thread to collect them itself.
    let (freed, mut kept): (Vec<_>, Vec<_>) = live.into_iter().enumerate().partition(|(index, _)| index % 5 == 0);
    let count = freed.len();
    freed.into_iter().for_each(|(_, block)| block.free(other));
    other.set.enter(test.heap, |inside| other.flush_all(inside));
    let before = test.check().classes[63];
    assert_eq!(before.blocks_remote, count, "nobody collected them yet");
    kept.extend((0..count / 2).map(|index| (index, alloc(other, class(512), 1).expect("memory"))));
    assert_eq!(test.check().classes[63].pools, before.pools);
    kept.into_iter().for_each(|(_, block)| block.free(other));
    other.release();
    assert_eq!(test.check().blocks_live(), 0);
}

#[test]
fn what_others_freed_into_a_threads_pools_is_used_before_a_new_pool() {
    let test = TestHeap::new();
    let (owner, other) = (test.attach(), test.attach());
    let live = fill(owner, 512, 2 * POOL_BYTES);
    // Too few of each pool for the freeing thread to collect them itself.
    let (freed, kept): (Vec<_>, Vec<_>) = live.into_iter().enumerate().partition(|(index, _)| index % 5 == 0);
    let count = freed.len();
    freed.into_iter().for_each(|(_, block)| block.free(other));
    other.shrink();
    let before = test.check().classes[63];
    assert_eq!(before.blocks_remote, count, "nobody collected them yet");
    let more: Vec<_> =
        (0..before.blocks_cached + before.blocks_free + count).map_while(|_| alloc(owner, class(512), 1)).collect();
    let after = test.check().classes[63];
    assert_eq!((after.pools, after.blocks_remote), (before.pools, 0));
    kept.into_iter().map(|(_, block)| block).chain(more).for_each(|block| block.free(owner));
    owner.release();
    other.release();
    assert_eq!(test.check().blocks_live(), 0);
}
