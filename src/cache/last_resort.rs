//! The last resort before null: the thread waits for every door, one after the other.
//!
//! While a thread is inside its own door, it only tries the doors of others: two threads that waited for each other's
//! doors would wait for ever. If a try fails, the thread learns nothing of the pools behind that door.
//!
//! # Rules
//! - *Own door left*: the caller holds no door. So it may wait for one, and never holds two.
//! - *Every door*: at each door it empties the depots, collects the blocks that others freed, returns the empty pools,
//!   and takes a free block of the class if there is one.
//! - *Nothing passed by*: it returns null only after a round in which no thread took a pool from the heap. If one did,
//!   that may have been memory that this thread had freed. Then this thread tries again; each further round means that
//!   another thread made progress.
//!
//! So when it returns null, each pool of the class was full when its door was entered, and each other pool up to the
//! limit had a block outside: a block in the program's hands, or in the magazine of another running thread, which
//! belongs to that thread's fast path.

use super::ThreadCache;
use crate::base::kind::Kind;
use crate::base::size_class::Class;
use crate::heap::pool::Block;
use crate::heap::run::RunSize;
use crate::heap::set::PoolSet;
use crate::heap::{Heap, MapArena};

/// A block of `class` for a thread that found none in `own`, its set. The thread holds no door.
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

/// A run from free pools, or from a new arena. Beyond the soft limit, an arena is mapped only after all threads have
/// given up their spare blocks and pools. The caller holds no door.
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

/// Empties the depots of all caches. A cache that no thread has is emptied altogether: an ended thread left it warm,
/// or, in a forked child, its thread does not exist there. To be called before sets are collected, because the blocks
/// go to other sets' inboxes, too. The caller holds no door.
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
