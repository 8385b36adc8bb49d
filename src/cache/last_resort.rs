//! The last resort before null: every door there is, one after the other, each waited for.
//!
//! Behind its own door a thread only tries the doors of others, for two threads that wait for each other's would wait
//! for ever. A door that it found shut says nothing of what is behind it.
//!
//! # Rules
//! - *Own door left*: the caller holds no door. So it may wait for one, and never holds two.
//! - *Every door*: at each it brings home what is in the depots and what others freed, returns the empty pools, and
//!   takes a free block of the class where there is one.
//! - *Nothing passed by*: null only after a round in which no thread took a pool from the heap. Else what this thread
//!   had freed may have gone to others; it then tries again, and each time one of them went on.
//!
//! So when null comes, each pool of the class was full when its door was entered, and each other pool up to the limit
//! had a block outside: of blocks in the program's hands, or in magazines of other running threads, which belong to
//! their fast paths.

use super::ThreadCache;
use crate::base::kind::Kind;
use crate::base::size_class::Class;
use crate::heap::pool::Block;
use crate::heap::run::RunSize;
use crate::heap::set::PoolSet;
use crate::heap::{Heap, MapArena};

/// A block of `class` for a thread that found none behind the door of `own`, its set, and left it.
#[cold]
#[inline(never)]
#[cfg_attr(target_os = "linux", unsafe(link_section = ".text_pymalloc"))]
pub(super) fn take<K: Kind>(heap: &Heap, own: &PoolSet, class: Class<K>) -> Option<Block> {
    loop {
        let pools_taken = heap.pools_taken();
        flush_caches(heap);
        for set in all_sets(heap) {
            set.visit(heap, |inside| {
                inside.collect();
                inside.return_empty_pools(0);
            });
        }
        let found = own.enter(heap, |inside| inside.take_one(class));
        let found =
            found.or_else(|| all_sets(heap).find_map(|set| set.visit(heap, |inside| inside.take_open(class))?));
        if found.is_some() || heap.pools_taken() == pools_taken {
            return found;
        }
    }
}

/// A run, from free pools, from a new arena, or, before the last arenas of a limit, from what all threads can spare. The
/// caller holds no door.
pub(crate) fn alloc_run(heap: &Heap, size: RunSize) -> Option<Block> {
    heap.alloc_run(MapArena::Soft, size).or_else(|| {
        flush_caches(heap);
        for set in all_sets(heap) {
            set.visit(heap, |inside| {
                inside.collect();
                inside.return_empty_pools(0);
            });
        }
        heap.alloc_run(MapArena::Hard, size)
    })
}

/// Empties the depots of all caches, and the whole of those that no thread has: those that ended threads left warm, and
/// in a forked child those of the threads that do not exist there. To be done before sets are collected, because their
/// blocks go to other sets' inboxes, too. The caller holds no door.
pub(crate) fn flush_caches(heap: &Heap) {
    for set in heap.sets() {
        // SAFETY: a registered set.
        if let Some(cache) = unsafe { ThreadCache::of_set(heap, set) } {
            // SAFETY: caches are never unmapped.
            let cache = unsafe { cache.as_ref() };
            cache.set.visit(heap, |inside| cache.flush_behind_door(inside));
        }
    }
}

fn all_sets(heap: &Heap) -> impl Iterator<Item = &PoolSet> {
    // SAFETY: sets are never unmapped.
    heap.sets().map(|set| unsafe { set.as_ref() })
}
