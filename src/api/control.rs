//! The crate's functions: what a program can ask of its heap, besides blocks.

use crate::cache::{GLOBAL, ThreadCache, with_thread};
use crate::inspect::check::{Corruption, check};
use crate::inspect::heap_map::HeapMap;
use crate::inspect::stats::{CacheStats, Stats, add_stats, gather_caches, live_blocks};
use crate::os;
use crate::purge::heap::purge_heap;

/// Counts the arenas, pools and blocks of the heap.
///
/// Any thread may call it at any time, also in a fork handler, but not in a signal handler. It allocates nothing.
/// Meanwhile the slow paths of other threads wait, and their fast paths run on. So the counts of live and of cached
/// blocks are a snapshot; they are exact for threads that do nothing meanwhile. Their sum and all other counts are
/// exact. The call takes time in proportion to the number of pools.
///
/// It takes up to 28 KiB of stack, the result included; 16 KiB if it is compiled with optimisation.
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

/// Counts the blocks in the program's hands, as Python's `sys.getallocatedblocks()` does.
///
/// It counts small blocks, and the blocks of [`Medium`](crate::Medium) if the program uses that. It is as exact as
/// [`stats`], and takes less time, because it reads no bitmap. If it grows from one run of a task to the next, the task
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

/// Counts the blocks and pools of each thread cache; the list is in no order.
///
/// The list has the caches of running threads, the caches that ended threads parked, and the spare set. A parked cache
/// that has neither blocks nor pools is left out.
///
/// The rules of [`stats`] apply, except that the list itself is allocated.
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
        // Before the slow paths are stopped: while they are, nothing can be allocated.
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
/// The rules of [`stats`] apply, except that the map itself is allocated: a little more than 1 KiB per arena.
///
/// It takes up to 36 KiB of stack; 18 KiB if it is compiled with optimisation.
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
        // Before the slow paths are stopped: while they are, nothing can be allocated.
        let mut map = HeapMap { title: String::new(), arenas: Vec::with_capacity(wanted), stats: Stats::ZERO };
        // The token is dropped before the match, because the match may allocate.
        let gathered = map.gather(&mut GLOBAL.stop());
        match gathered {
            Ok(()) => return map,
            Err(count) => wanted = count + count / 8 + 4,
        }
    }
}

/// Checks every arena, pool, bitmap, list, inbox and thread cache, and counts what the heap holds.
///
/// It is meant for tests: it takes time in proportion to the heap. Other threads may run meanwhile; see [`stats`].
///
/// # Errors
/// The first invariant that is broken.
///
/// ```
/// pymalloc::self_check().expect("the heap is sound");
/// ```
#[doc(alias = "mcheck_check_all")]
pub fn self_check() -> Result<Stats, Corruption> {
    check(&mut GLOBAL.stop())
}

/// Gives free memory back to the OS, and returns the number of bytes given back while it ran.
///
/// It empties the calling thread's cache, and collects the blocks that threads freed into each other's pools, also into
/// the pools of threads that sleep or ended. Then it gives back the memory of every free pool, and every free arena.
/// Blocks in the magazines of other threads stay there: at most 32 KiB per thread and size class. (Per medium class it
/// is at most 128 KiB, or eight blocks where these are more.) Later requests take memory from the OS again.
///
/// With glibc, `malloc_trim` runs next. It gives back free memory of glibc's own heaps, which hold the large blocks
/// among others. It visits each free part of these heaps. The bytes that it gives back are not counted.
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

/// Returns all free blocks of the calling thread's cache to their pools, and makes its magazines small again.
///
/// It is meant for a thread that is about to be idle. Blocks of other threads' pools are returned, too.
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
