//! Memory that has to be committed before it is used, and what happens when the OS refuses to.

use std::sync::atomic::Ordering::Relaxed;

use super::test_heap::{Live, TestHeap, alloc, class, fill, one_in};
use crate::base::config::{ARENA_BYTES, POOL_BYTES};
use crate::cache::ThreadCache;

fn free_all(live: impl IntoIterator<Item = Live>, cache: &ThreadCache) {
    live.into_iter().for_each(|block| block.free(cache));
}

#[test]
fn a_pool_is_committed_when_it_is_taken_and_no_longer_after_a_purge() {
    let test = TestHeap::that_commits();
    let cache = test.attach();
    let before = test.memory.committed_bytes();
    let live = fill(cache, 512, 10 * POOL_BYTES);
    let pools = test.check().classes[63].pools;
    assert_eq!(test.memory.committed_bytes(), before + pools * POOL_BYTES);
    free_all(live, cache);
    cache.shrink();
    test.purge();
    assert_eq!(test.memory.committed_bytes(), before);
    cache.release();
}

#[test]
fn parts_that_were_purged_are_committed_before_a_block_in_them_is_handed_out() {
    let test = TestHeap::that_commits();
    let cache = test.attach();
    let (kept, freed) = one_in(64, fill(cache, 256, ARENA_BYTES));
    let full = test.memory.committed_bytes();
    free_all(freed, cache);
    cache.shrink();
    test.purge();
    let swept = test.memory.committed_bytes();
    // A block in four of the parts of 4 KiB.
    assert!(swept < full / 2, "{swept} of {full} bytes");
    let again = fill(cache, 256, ARENA_BYTES);
    kept.iter().for_each(Live::verify);
    free_all(kept.into_iter().chain(again), cache);
    cache.release();
    test.purge();
    assert_eq!(test.check().arenas_mapped, 0);
}

#[test]
fn whichever_commit_is_refused_first_the_heap_gives_null_and_recovers() {
    for commits in 0..12 {
        let test = TestHeap::that_commits();
        let cache = test.attach();
        test.memory.commits_left.store(commits, Relaxed);
        let mut live = Vec::new();
        while let Some(block) = alloc(cache, class(400), live.len() as u64) {
            live.push(block);
        }
        assert_eq!(live.len(), commits * class(400).pool_blocks());
        assert!(alloc(cache, class(64), 0).is_none());
        assert_eq!(test.check().blocks_live(), live.len());
        test.memory.commits_left.store(usize::MAX, Relaxed);
        live.push(alloc(cache, class(400), 2).expect("memory is back"));
        free_all(live, cache);
        cache.release();
        test.purge();
        assert_eq!(test.check().arenas_mapped, 0);
    }
}

#[test]
fn where_commits_are_refused_free_pools_that_have_memory_are_used() {
    let test = TestHeap::that_commits();
    let cache = test.attach();
    // The pools of the first arena, which is the fullest, have no memory; those of the others have.
    let (kept, freed): (Vec<_>, Vec<_>) =
        fill(cache, 512, 2 * ARENA_BYTES).into_iter().enumerate().partition(|(number, _)| number % 64 == 0);
    free_all(freed.into_iter().map(|(_, block)| block), cache);
    cache.shrink();
    test.purge();
    let dirty = fill(cache, 504, ARENA_BYTES / 2);
    free_all(dirty, cache);
    cache.shrink();
    cache.set.enter(test.heap, |inside| inside.return_empty_pools(0));
    let dirty_pools = test.dirty_pools();
    assert_ne!(dirty_pools, 0);
    test.memory.commits_left.store(0, Relaxed);
    let mut live = Vec::new();
    while let Some(block) = alloc(cache, class(256), live.len() as u64) {
        live.push(block);
    }
    assert_eq!(live.len(), dirty_pools * class(256).pool_blocks());
    test.check();
    free_all(live.into_iter().chain(kept.into_iter().map(|(_, block)| block)), cache);
    cache.release();
    test.purge();
    assert_eq!(test.check().arenas_mapped, 0);
}

#[test]
fn where_commits_are_refused_partial_pools_with_all_of_their_memory_are_used() {
    let test = TestHeap::that_commits();
    let cache = test.attach();
    let (kept, freed) = one_in(64, fill(cache, 512, 8 * POOL_BYTES));
    free_all(freed, cache);
    cache.shrink();
    test.purge();
    // Pools with purged parts; and, from an arena that has memory to spare, one with all of its memory, behind them.
    let other = test.attach();
    let whole = fill(other, 512, POOL_BYTES);
    let whole_blocks = whole.len();
    free_all(whole, cache);
    cache.shrink();
    other.release();
    test.memory.commits_left.store(0, Relaxed);
    let mut live = Vec::new();
    while let Some(block) = alloc(cache, class(512), live.len() as u64) {
        live.push(block);
    }
    assert!(live.len() >= whole_blocks, "{} blocks of {whole_blocks}", live.len());
    test.check();
    test.memory.commits_left.store(usize::MAX, Relaxed);
    free_all(live.into_iter().chain(kept), cache);
    cache.release();
    test.purge();
    assert_eq!(test.check().arenas_mapped, 0);
}

#[test]
fn what_the_os_does_not_decommit_is_used_on() {
    let test = TestHeap::that_commits();
    let cache = test.attach();
    let (kept, freed) = one_in(100, fill(cache, 256, 4 * ARENA_BYTES));
    test.memory.refuse_purge.store(true, Relaxed);
    free_all(freed, cache);
    cache.shrink();
    let full = test.memory.committed_bytes();
    assert_eq!(test.purge(), 0);
    assert_eq!(test.memory.committed_bytes(), full);
    test.memory.commits_left.store(0, Relaxed);
    let again = fill(cache, 256, ARENA_BYTES);
    test.memory.refuse_purge.store(false, Relaxed);
    free_all(kept.into_iter().chain(again), cache);
    cache.release();
    test.purge();
    assert_eq!(test.check().arenas_mapped, 0);
}
