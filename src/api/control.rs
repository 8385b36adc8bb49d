//! The crate's functions: what a program can ask of its heap beside blocks.

use crate::cache::{GLOBAL, ThreadCache, with_thread};
use crate::inspect::check::{Corruption, check};
use crate::inspect::heap_map::HeapMap;
use crate::inspect::stats::{CacheStats, Stats, add_stats, gather_caches, live_blocks};
use crate::os;
use crate::purge::heap::purge_heap;

/// Counts what the heap holds.
///
/// Any thread may call it at any time, fork handlers included; signal handlers may not. It allocates nothing. Slow
/// paths of other threads wait meanwhile, their fast paths run on: the counts of blocks live and cached are a snapshot,
/// exact for threads that do nothing meanwhile; their sum and all other counts are exact. It takes time in proportion
/// to the number of pools.
///
/// Takes up to 28 KiB of stack, with the result; 16 KiB if it is compiled with optimisation.
///
/// ```
/// # #[global_allocator] static GLOBAL: pymalloc::Pymalloc = pymalloc::Pymalloc::new();
/// let before = pymalloc::stats().blocks_live();
/// let boxes: Vec<Box<u64>> = (0..1000).map(Box::new).collect();
/// # if !cfg!(pymalloc_bypass) {
/// let stats = pymalloc::stats();
/// assert!(stats.blocks_live() >= before + 1000);
/// assert_eq!(stats.bytes.sum(), stats.arenas_mapped * pymalloc::ARENA_BYTES);
/// # }
/// # drop(boxes);
/// ```
#[doc(alias = "sys._debugmallocstats")]
#[doc(alias = "malloc_stats")]
#[doc(alias = "malloc_stats_print")]
#[doc(alias = "malloc_info")]
#[doc(alias = "mallctl")]
#[doc(alias = "mallinfo2")]
#[doc(alias = "mi_stats_print")]
pub fn stats() -> Stats {
    let mut stats = Stats::ZERO;
    add_stats(&mut stats);
    stats
}

/// Blocks in the program's hands: Python's `sys.getallocatedblocks()`.
///
/// Counts small blocks, and those of [`Medium`](crate::Medium) where that is used, as [`stats`] does and with the same
/// exactness, in less time, because it looks at no bitmap. Growth from one run of a task to the next says that the task
/// leaks.
///
/// ```
/// # #[global_allocator] static GLOBAL: pymalloc::Pymalloc = pymalloc::Pymalloc::new();
/// let before = pymalloc::allocated_blocks();
/// let kept: Vec<Box<u64>> = (0..100).map(Box::new).collect();
/// # if !cfg!(pymalloc_bypass) {
/// assert!(pymalloc::allocated_blocks() >= before + 100);
/// # }
/// # drop(kept);
/// ```
#[doc(alias = "sys.getallocatedblocks")]
pub fn allocated_blocks() -> usize {
    live_blocks(&mut GLOBAL.stop())
}

/// Counts each thread cache: those of running threads, those parked by ended ones, and the spare set; in no order. A
/// parked one that has neither blocks nor pools is left out.
///
/// As [`stats`], but the list itself is allocated.
///
/// ```
/// # #[global_allocator] static GLOBAL: pymalloc::Pymalloc = pymalloc::Pymalloc::new();
/// use pymalloc::stats::CacheUse;
/// let caches = pymalloc::thread_caches();
/// # if !cfg!(pymalloc_bypass) {
/// assert!(caches.iter().any(|cache| cache.used_by == CacheUse::Caller && cache.pools_owned > 0));
/// # }
/// ```
#[doc(alias = "tcache")]
pub fn thread_caches() -> Vec<CacheStats> {
    let mut wanted = GLOBAL.set_count() + 8;
    loop {
        // Before the slow paths are stopped: afterwards there is no memory to be had.
        let mut found = Vec::with_capacity(wanted);
        let count = gather_caches(&mut GLOBAL.stop(), &mut found);
        if count <= found.len() {
            return found;
        }
        wanted = count + count / 2;
    }
}

/// Maps every pool of the heap, for a picture: [`HeapMap::to_svg`], [`HeapMap::to_html`].
///
/// As [`stats`], but the map itself is allocated, a little more than a KiB an arena.
///
/// Takes up to 36 KiB of stack; 18 KiB if it is compiled with optimisation.
///
/// ```
/// # #[global_allocator] static GLOBAL: pymalloc::Pymalloc = pymalloc::Pymalloc::new();
/// let boxes: Vec<Box<u64>> = (0..10_000).map(Box::new).collect();
/// let map = pymalloc::heap_map().with_title("Ten thousand boxes");
/// assert_eq!(map.arenas.len(), map.stats.arenas_mapped);
/// std::fs::write(std::env::temp_dir().join("heap.svg"), map.to_svg())?;
/// # drop(boxes);
/// # std::io::Result::Ok(())
/// ```
#[doc(alias = "mi_debug_show_arenas")]
#[doc(alias = "mi_heap_visit_blocks")]
pub fn heap_map() -> HeapMap {
    let mut wanted = 16;
    loop {
        // Before the slow paths are stopped: afterwards there is no memory to be had.
        let mut map = HeapMap { title: String::new(), arenas: Vec::with_capacity(wanted), stats: Stats::ZERO };
        // The token ends before the match: what follows may allocate.
        let gathered = map.gather(&mut GLOBAL.stop());
        match gathered {
            Ok(()) => return map,
            Err(count) => wanted = count + count / 8 + 4,
        }
    }
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
#[doc(alias = "mcheck_check_all")]
pub fn self_check() -> Result<Stats, Corruption> {
    check(&mut GLOBAL.stop())
}

/// Gives back to the OS what is free; returns the bytes given back while it ran.
///
/// Empties the calling thread's cache, brings home what threads freed into each other's pools (also into those of
/// threads that sleep or ended), and returns every free pool's memory and every free arena. What other threads hold
/// in their magazines stays there: at most 32 KiB a size class each (128 KiB or eight blocks a medium one). Later
/// requests take memory anew.
///
/// With glibc, its `malloc_trim` follows, for large blocks and whatever else is in its heaps; it takes a look at each
/// free part of them. The bytes that this gives back are not counted.
///
/// ```
/// # #[global_allocator] static GLOBAL: pymalloc::Pymalloc = pymalloc::Pymalloc::new();
/// let boxes: Vec<Box<[u64; 8]>> = (0..100_000).map(|n| Box::new([n; 8])).collect();
/// drop(boxes);
/// pymalloc::purge();
/// assert!(pymalloc::stats().arenas_mapped <= 2);
/// ```
#[doc(alias = "malloc_trim")]
#[doc(alias = "mi_collect")]
#[doc(alias = "arena.purge")]
pub fn purge() -> usize {
    flush_thread_cache();
    let bytes = purge_heap(&GLOBAL);
    os::trim_malloc();
    bytes
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
#[doc(alias = "thread.tcache.flush")]
pub fn flush_thread_cache() {
    with_thread(ThreadCache::shrink);
}
