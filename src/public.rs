//! The crate's functions: what a program can ask of its heap beside blocks.

use crate::cache::{GLOBAL, ThreadCache, with_thread};
use crate::check::{Corruption, check};
use crate::config::ARENA_BYTES;
use crate::heap::Heap;
use crate::stats::Stats;

/// Counts what the heap holds.
///
/// Any thread may call it at any time, fork handlers included; signal handlers may not. Slow paths of other threads
/// wait meanwhile, their fast paths run on: the counts of blocks live and cached are a snapshot, exact for threads that
/// do nothing meanwhile; all other counts are exact.
///
/// ```
/// # #[global_allocator] static GLOBAL: pymalloc::Pymalloc = pymalloc::Pymalloc::new();
/// let before = pymalloc::stats().blocks_live();
/// let boxes: Vec<Box<u64>> = (0..1000).map(Box::new).collect();
/// # if !cfg!(feature = "bypass") {
/// assert!(pymalloc::stats().blocks_live() >= before + 1000);
/// # }
/// # drop(boxes);
/// ```
pub fn stats() -> Stats {
    // SAFETY: `stopped` stops the slow paths.
    stopped(&GLOBAL, || unsafe { Stats::gather(&GLOBAL) })
}

/// Checks every arena, pool, bitmap, list, inbox and thread cache, and counts what the heap holds.
///
/// For tests: it takes time in proportion to the heap. Other threads may run; see [`stats`].
///
/// # Errors
/// The first invariant found broken.
///
/// ```
/// pymalloc::self_check().expect("the heap is sound");
/// ```
pub fn self_check() -> Result<Stats, Corruption> {
    // SAFETY: `stopped` stops the slow paths.
    stopped(&GLOBAL, || unsafe { check(&GLOBAL) })
}

fn stopped<R>(heap: &Heap, body: impl FnOnce() -> R) -> R {
    let stopped = heap.stop_slow_paths();
    let result = body();
    if stopped {
        // SAFETY: stopped above, by this thread.
        unsafe { heap.restart_slow_paths() };
    }
    result
}

/// Gives back to the OS what is free; returns the bytes given back while it ran.
///
/// Empties the calling thread's cache, brings home what threads freed into each other's pools (also into those of
/// threads that sleep or ended), and returns every free pool's memory and every free arena. What other threads hold
/// in their caches stays there, at most 32 KiB a size class each. Later requests take memory anew.
///
/// ```
/// # #[global_allocator] static GLOBAL: pymalloc::Pymalloc = pymalloc::Pymalloc::new();
/// let boxes: Vec<Box<[u64; 8]>> = (0..100_000).map(|n| Box::new([n; 8])).collect();
/// drop(boxes);
/// pymalloc::purge();
/// assert!(pymalloc::stats().arenas_mapped <= 2);
/// ```
pub fn purge() -> usize {
    flush_thread_cache();
    purge_heap(&GLOBAL)
}

/// [`purge`] without the calling thread's cache.
pub(crate) fn purge_heap(heap: &Heap) -> usize {
    let before = heap.bytes_given_back();
    // The caches of threads that a forked child does not have may still be filled. All of them first, because
    // their blocks go to other sets' inboxes too.
    for set in heap.sets() {
        // SAFETY: a registered set.
        if let Some(cache) = unsafe { ThreadCache::of_set(heap, set) } {
            // SAFETY: caches are never unmapped.
            unsafe { cache.as_ref() }.flush_if_parked(heap);
        }
    }
    for set in heap.sets() {
        // SAFETY: sets are never unmapped.
        unsafe { set.as_ref() }.enter(heap, |inside| {
            inside.collect();
            inside.return_empty_pools(0);
            inside.sweep();
        });
    }
    heap.purge_free();
    heap.bytes_given_back().wrapping_sub(before)
}

/// Lets the arenas take at most so many bytes, rounded down to whole arenas ([`ARENA_BYTES`]); `usize::MAX`, as at the
/// start, is no limit.
///
/// In the last eighth below the limit, an arena is mapped only when no other thread's pools have anything to spare. At the
/// limit, the calling thread's own cache is emptied, too, and then small requests get null until blocks are freed or the
/// limit is raised. If as many arenas or more are mapped already, none is added, and what is free goes back at once, as by
/// [`purge`]. The allocator's own metadata (a few percent more) and large requests are not counted.
///
/// ```
/// # #[global_allocator] static GLOBAL: pymalloc::Pymalloc = pymalloc::Pymalloc::new();
/// use std::alloc::{Layout, alloc, dealloc};
///
/// pymalloc::set_limit(16 << 20);
/// let layout = Layout::new::<[u64; 64]>();
/// let mut blocks = Vec::with_capacity(40_000);
/// # if !cfg!(feature = "bypass") {
/// loop {
///     // SAFETY: the size is not 0.
///     let block = unsafe { alloc(layout) };
///     if block.is_null() {
///         break;
///     }
///     blocks.push(block);
/// }
/// assert!(pymalloc::stats().arenas_mapped <= 8);
/// # }
/// // SAFETY: allocated above, with this layout.
/// blocks.into_iter().for_each(|block| unsafe { dealloc(block, layout) });
/// ```
pub fn set_limit(bytes: usize) {
    let arenas = if bytes == usize::MAX { usize::MAX } else { bytes / ARENA_BYTES };
    if GLOBAL.set_arena_limit(arenas) {
        purge();
    }
}

/// Empties the calling thread's magazines into their pools, and makes them small again.
///
/// For threads that are about to idle. Blocks that belong to other threads' pools go home too.
///
/// ```
/// # #[global_allocator] static GLOBAL: pymalloc::Pymalloc = pymalloc::Pymalloc::new();
/// drop(vec![Box::new(1); 100]);
/// pymalloc::flush_thread_cache();
/// ```
pub fn flush_thread_cache() {
    with_thread(ThreadCache::shrink);
}
