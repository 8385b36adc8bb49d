//! Limits on the number of arenas: which requests are served near them, at them and above them.

use super::test_heap::{Live, TestHeap, alloc, alloc_zeroed, class};
use crate::base::config::ARENA_BYTES;
use crate::cache::ThreadCache;
use crate::heap::ArenaLimits;

#[test]
fn at_the_limit_null_comes_and_below_it_memory() {
    let test = TestHeap::new();
    let cache = test.attach();
    for limit in [0, 1, 2, 5] {
        test.heap.set_arena_limits(ArenaLimits::of_hard(limit));
        let mut live = Vec::new();
        while let Some(block) = alloc(cache, class(256), live.len() as u64) {
            live.push(block);
        }
        assert_eq!(test.check().arenas_mapped, limit);
        assert_eq!(live.len(), limit * ARENA_BYTES / 256, "every block of the arenas was had");
        assert!(alloc(cache, class(8), 0).is_none() && alloc_zeroed(cache, class(512), 0).is_none());
        // Memory that one class gives back serves the others.
        live.iter().for_each(Live::verify);
        live.into_iter().for_each(|block| block.free(cache));
        for block_bytes in [8, 512] {
            let live: Vec<_> =
                (0..limit * ARENA_BYTES / 512).map_while(|_| alloc(cache, class(block_bytes), 1)).collect();
            assert_eq!(live.len(), limit * ARENA_BYTES / 512);
            live.into_iter().for_each(|block| block.free(cache));
        }
        assert_eq!(test.check().arenas_mapped, limit);
    }
    // A limit below what is in use: nothing is lost, and nothing is added.
    let live: Vec<_> =
        (0..2 * ARENA_BYTES / 64).map(|seed| alloc(cache, class(64), seed as u64).expect("memory")).collect();
    assert!(test.heap.set_arena_limits(ArenaLimits::of_hard(1)));
    test.purge();
    let mapped = test.check().arenas_mapped;
    let more: Vec<_> = std::iter::from_fn(|| alloc(cache, class(504), 0)).collect();
    assert_eq!(test.check().arenas_mapped, mapped);
    more.into_iter().for_each(|block| block.free(cache));
    live.iter().for_each(Live::verify);
    assert!(!test.heap.set_arena_limits(ArenaLimits::of_hard(usize::MAX)));
    let more: Vec<_> =
        (0..6 * ARENA_BYTES / 512).map(|seed| alloc(cache, class(512), seed as u64).expect("memory")).collect();
    live.into_iter().chain(more).for_each(|block| block.free(cache));
    cache.release();
    test.purge();
    assert_eq!(test.check().arenas_mapped, 0);
}

#[test]
fn near_the_limit_others_give_up_what_they_keep_before_an_arena_is_mapped() {
    let limit = ArenaLimits::of_hard(32);
    assert_eq!(limit.soft, 28);
    others_give_up_what_they_keep(limit);
    others_give_up_what_they_keep(ArenaLimits { soft: 23, ..limit });
}

fn others_give_up_what_they_keep(limits: ArenaLimits) {
    let test = TestHeap::new();
    test.heap.set_arena_limits(limits);
    let (idle, cache): (Vec<_>, _) = ((0..80).map(|_| test.attach()).collect(), test.attach());
    // Each cache keeps a few empty pools for its next need.
    for cache in &idle {
        let live: Vec<_> = (0..64 * 40).map(|seed| alloc(cache, class(512), seed).expect("memory")).collect();
        live.into_iter().for_each(|block| block.free(cache));
        cache.shrink();
    }
    let spare = test.check().pools_empty;
    assert!(spare > 4 * 64, "{spare}");
    let mut live = Vec::new();
    while test.check().pools_empty == spare {
        live.extend((0..64 * 8).map(|seed| alloc(cache, class(512), seed).expect("memory")));
    }
    let stats = test.check();
    assert_eq!(stats.arenas_mapped, limits.soft, "they were asked when the limit was near, not before");
    for _ in 0..spare - 64 {
        live.extend((0..64).map(|seed| alloc(cache, class(512), seed).expect("memory")));
    }
    assert_eq!(test.check().arenas_mapped, limits.soft, "what they had was used first");
    while let Some(block) = alloc(cache, class(512), 7) {
        live.push(block);
    }
    assert_eq!(test.check().arenas_mapped, limits.hard);
    live.into_iter().for_each(|block| block.free(cache));
    idle.into_iter().for_each(ThreadCache::release);
    cache.release();
    test.purge();
    assert_eq!(test.check().arenas_mapped, 0);
}
