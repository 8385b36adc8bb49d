//! Faults injected into the memory source: nothing is lost, and the heap works on when they are over.

use std::sync::atomic::Ordering::Relaxed;

use super::test_heap::{Live, TestHeap, alloc, alloc_zeroed, class, free_by_spare_set, take_by_spare_set};
use crate::base::config::{ARENA_BYTES, FAULT_IN_FROM_POOLS, POOL_BYTES};
use crate::cache::ThreadCache;
use crate::os::{MemorySource, SystemMemory};

#[test]
fn whichever_map_fails_first_the_heap_gives_null_and_recovers() {
    for maps in 0..12 {
        let test = TestHeap::new();
        test.memory.maps_left.store(maps, Relaxed);
        let mut live = Vec::new();
        let cache = loop {
            match ThreadCache::acquire(test.heap) {
                Some(cache) => break cache,
                None => {
                    assert_eq!(maps, 0, "one mapping is enough for a cache");
                    test.memory.maps_left.store(1, Relaxed);
                }
            }
        };
        while let Some(block) = alloc(cache, class(400), live.len() as u64) {
            live.push(block);
        }
        assert_eq!(test.check().blocks_live(), live.len());
        // Null again, for any class, and no damage.
        assert!(alloc(cache, class(400), 0).is_none());
        assert_eq!(test.check().blocks_live(), live.len());
        if let Some(block) = live.pop() {
            block.free(cache);
            live.push(alloc(cache, class(400), 1).expect("the block just freed"));
        }
        test.memory.maps_left.store(usize::MAX, Relaxed);
        live.push(alloc(cache, class(400), 2).expect("memory is back"));
        live.into_iter().for_each(|block| block.free(cache));
        cache.release();
        test.purge();
        assert_eq!(test.check().arenas_mapped, 0);
    }
}

#[test]
fn without_memory_blocks_of_other_classes_and_of_parked_sets_are_used_before_null() {
    let test = TestHeap::new();
    let (one, other) = (test.attach(), test.attach());
    let fill = |cache| -> Vec<Live> { (0..2000).map(|seed| alloc(cache, class(512), seed).expect("memory")).collect() };
    let (first, second) = (fill(one), fill(other));
    test.memory.maps_left.store(0, Relaxed);
    // All of it comes home: into the magazines of one, and into the pools of the sleeping other.
    first.into_iter().chain(second).for_each(|block| block.free(one));
    let mut live = Vec::new();
    while let Some(block) = alloc(one, class(8), live.len() as u64) {
        live.push(block);
    }
    let arena_blocks = ARENA_BYTES / 8;
    let mapped = test.check().arenas_mapped;
    assert!(live.len() > (mapped - 1) * arena_blocks, "{} blocks in {mapped} arenas", live.len());
    live.into_iter().for_each(|block| block.free(one));
}

#[test]
fn a_thread_without_a_cache_frees_and_allocates_by_the_spare_set() {
    let test = TestHeap::new();
    let cache = test.attach();
    let block = alloc(cache, class(64), 1).expect("memory");
    test.memory.maps_left.store(0, Relaxed);
    let heap = test.heap;
    free_by_spare_set(heap, block);
    let stats = test.check();
    assert_eq!((stats.blocks_live(), stats.classes[7].blocks_remote), (0, 1));
    let again = take_by_spare_set(heap, class(64)).expect("a pool of the arena");
    Live::fill(again.start.as_ptr(), class(64), 2).free(cache);
    cache.release();
    assert_eq!(test.check().blocks_live(), 0);
}

#[test]
fn arenas_that_the_os_refuses_to_unmap_are_purged_and_used_again() {
    let test = TestHeap::new();
    let cache = test.attach();
    let live: Vec<_> = (0..50_000).map(|seed| alloc(cache, class(256), seed).expect("memory")).collect();
    let peak = test.check().arenas_mapped;
    test.memory.refuse_unmap.store(true, Relaxed);
    live.into_iter().for_each(|block| block.free(cache));
    cache.shrink();
    test.purge();
    let stats = test.check();
    assert_eq!((stats.arenas_mapped, stats.arenas_returned), (peak, 0));
    let maps = test.memory.maps.load(Relaxed);
    // What was purged is zero, and is served again.
    let live: Vec<_> = (0..50_000).map(|seed| alloc_zeroed(cache, class(256), seed).expect("memory")).collect();
    assert_eq!(test.memory.maps.load(Relaxed), maps, "no arena was mapped");
    live.into_iter().for_each(|block| block.free(cache));
    test.memory.refuse_unmap.store(false, Relaxed);
    cache.release();
    test.purge();
    assert_eq!(test.check().arenas_mapped, 0);
}

#[test]
fn os_pages_of_16_and_64_kib_work() {
    for page_bytes in [16 << 10, 64 << 10].into_iter().filter(|&bytes| bytes >= SystemMemory.page_bytes()) {
        let test = TestHeap::with_page_bytes(page_bytes);
        let cache = test.attach();
        let anchor = alloc(cache, class(8), 0).expect("memory");
        for _ in 0..3 {
            let live: Vec<_> = (0..30_000).map(|seed| alloc(cache, class(200), seed).expect("memory")).collect();
            test.check();
            live.into_iter().for_each(|block| block.free(cache));
            cache.shrink();
            let purged = test.purge();
            assert!(purged >= 2 * ARENA_BYTES, "{purged}");
            let zeroed: Vec<_> = (0..100).map(|seed| alloc_zeroed(cache, class(200), seed).expect("memory")).collect();
            zeroed.into_iter().for_each(|block| block.free(cache));
        }
        anchor.free(cache);
        cache.release();
        test.purge();
        assert_eq!(test.check().arenas_mapped, 0);
    }
}

#[test]
fn a_purge_reaches_every_free_pool_although_unmapping_is_refused() {
    let test = TestHeap::new();
    let cache = test.attach();
    let live: Vec<_> = (0..64 * 64 * 4).map(|seed| alloc(cache, class(512), seed).expect("memory")).collect();
    live.into_iter().for_each(|block| block.free(cache));
    cache.shrink();
    test.memory.refuse_unmap.store(true, Relaxed);
    assert!(test.purge() >= 2 * ARENA_BYTES);
    let purges = test.memory.purges.load(Relaxed);
    assert_eq!(test.purge(), 0, "nothing is left to purge");
    assert_eq!(test.memory.purges.load(Relaxed), purges);
    test.memory.refuse_unmap.store(false, Relaxed);
    cache.release();
}

#[test]
fn pools_smaller_than_an_os_page_are_purged_by_whole_os_pages() {
    let test = TestHeap::with_page_bytes(64 << 10);
    let cache = test.attach();
    let live: Vec<_> =
        (0..2 * ARENA_BYTES / 512).map(|seed| alloc(cache, class(512), seed as u64).expect("memory")).collect();
    let os_page_of = |block: &Live| block.start.addr() / (64 << 10);
    // Of every fourth OS page one block stays, so both arenas do.
    let mut seen = std::collections::BTreeSet::new();
    let (kept, freed): (Vec<_>, Vec<_>) =
        live.into_iter().partition(|block| os_page_of(block) % 4 == 0 && seen.insert(os_page_of(block)));
    freed.into_iter().for_each(|block| block.free(cache));
    cache.shrink();
    let purged = test.purge();
    let whole_os_pages = 2 * ARENA_BYTES / (64 << 10) * 3 / 4;
    assert!(purged >= whole_os_pages * (64 << 10), "{purged}");
    kept.iter().for_each(Live::verify);
    test.check();
    let zeroed: Vec<_> = (0..4000).map(|seed| alloc_zeroed(cache, class(504), seed).expect("memory")).collect();
    kept.into_iter().chain(zeroed).for_each(|block| block.free(cache));
    cache.release();
    test.purge();
    assert_eq!(test.check().arenas_mapped, 0);
}

#[test]
fn a_map_that_fails_once_costs_nothing_but_that_call() {
    // How many maps a program of all kinds of needs makes: a cache, arenas, larger magazines, leaves.
    let program = |failing: Option<usize>| {
        let test = TestHeap::new();
        test.memory.fail_once.store(failing.unwrap_or(usize::MAX), Relaxed);
        let (mut live, mut nulls) = (Vec::new(), 0);
        for _ in 0..3 {
            let cache = match ThreadCache::acquire(test.heap) {
                Some(cache) => cache,
                None => test.attach(),
            };
            for seed in 0..30_000 {
                match alloc(cache, class(8 + seed as usize % 64 * 8), seed) {
                    Some(block) => live.push(block),
                    None => nulls += 1,
                }
            }
            let rest = live.split_off(live.len() / 2);
            rest.into_iter().for_each(|block| block.free(cache));
            live.iter().for_each(Live::verify);
            assert_eq!(test.check().blocks_live(), live.len());
            cache.release();
        }
        let maps = test.memory.maps.load(Relaxed);
        let cache = test.attach();
        live.into_iter().for_each(|block| block.free(cache));
        cache.release();
        test.purge();
        assert_eq!(test.check().arenas_mapped, 0);
        (maps, nulls)
    };
    let (maps, nulls) = program(None);
    assert!(maps > 5 && nulls == 0);
    for failing in 0..maps {
        let (_, nulls) = program(Some(failing));
        assert!(nulls <= 1, "{nulls} calls failed because of map {failing}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn what_is_mapped_between_guards_has_no_access_on_either_side() {
    let (bytes, guard_bytes) = (1 << 16, SystemMemory.page_bytes());
    let start = SystemMemory.map_guarded(bytes, guard_bytes).expect("memory");
    let (first, end) = (start.addr().get(), start.addr().get() + bytes);
    let maps = std::fs::read_to_string("/proc/self/maps").expect("/proc is mounted");
    let access = |is_it: &dyn Fn(usize, usize) -> bool| {
        let line = maps.lines().find(|line| {
            let (from, to) = line.split(' ').next().and_then(|range| range.split_once('-')).expect("a range");
            let number = |text| usize::from_str_radix(text, 16).expect("an address");
            is_it(number(from), number(to))
        });
        line.and_then(|line| line.split(' ').nth(1)).expect("a mapping")
    };
    assert_eq!(access(&|_, to| to == first), "---p");
    assert_eq!(access(&|from, to| from == first && to == end), "rw-p");
    assert_eq!(access(&|from, _| from == end), "---p");
    // SAFETY: mapped above, not used.
    assert!(unsafe { SystemMemory.unmap(start, bytes) });
}

#[test]
#[cfg_attr(windows, ignore = "memory is committed there")]
fn an_arena_whose_metadata_the_os_does_not_purge_begins_anew() {
    let test = TestHeap::without_commits();
    let cache = test.attach();
    test.memory.refuse_purge.store(true, Relaxed);
    let populates = || test.memory.populates.load(Relaxed);
    let peak = || {
        let before = populates();
        let blocks = (FAULT_IN_FROM_POOLS as usize + 100) * POOL_BYTES / 512;
        let live: Vec<_> = (0..blocks).map(|seed| alloc_zeroed(cache, class(512), seed as u64).unwrap()).collect();
        assert_eq!(test.check().blocks_live(), live.len());
        live.into_iter().for_each(|block| block.free(cache));
        cache.shrink();
        test.purge();
        assert_eq!(test.check().arenas_mapped, 0);
        populates() - before
    };
    let first = peak();
    // Where an OS page holds several pools, none gets its memory at once.
    assert_eq!(first > 0, test.memory.pools_of_os_page() == 1);
    // No pool is taken for one with memory of its own.
    assert_eq!(peak(), first);
    cache.release();
}
