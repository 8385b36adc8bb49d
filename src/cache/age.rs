//! Ageing: blocks that a thread's cache did not need for a while go home, so that they pin no pools.
//!
//! One slow call in a few, of whichever class, visits a class; the classes take turns. Large requests lead to visits,
//! too, after a number of bytes: a thread that turns to large blocks makes no slow calls, and its cached blocks take
//! memory that those need. A visit finds the blocks that the class did not use since its last visit, and gives them
//! back:
//!
//! - *Magazine.* A visit raises the magazine's floor to three quarters of its blocks. An allocation that would go below
//!   the floor takes the slow path, once, which lowers the floor again. So a floor that still stands at the next visit
//!   is a low-water mark: the blocks below it were not used, and go home. If the top is also where it was, all blocks
//!   go home: most likely none was used, and if one was, a refill makes up for it. All this costs the fast path no
//!   instruction.
//! - *Depot.* If it held a chunk all the time since the last visit, the class is in a long row of frees, or not used.
//!   Then all blocks of the class go home, and nothing is stowed until the next allocation from it (`close`).
//! - *Quarantine* (feature `hardened`). It is emptied when the visit leaves nothing in the magazine.
//! - *All.* One visit in a few sends home all blocks of the class. Otherwise the two copies of a block that was freed
//!   twice could circulate between magazine and depot for ever. On their way home, the second copy meets the first.
//! - *Arrays.* A magazine that was empty at two visits in a row becomes small again.
//!
//! Bonwick has such a mark for depots (USENIX 2001, working set); here magazines have it.
//!
//! # Invariants
//! - *Floor*: in a magazine that is neither poisoned nor of strangers, `floor` is `base + spare`. `spare` is at most
//!   the number of its blocks, unless the thread has popped some since. Then it took the slow path, or will take it.

use super::{ThreadCache, capacity_max};
use crate::base::config::{
    CLASS_COUNT, LARGE_BYTES_PER_ROUND, MAGAZINE_SLOTS_MIN, SLOW_CALLS_PER_VISIT, VISITS_PER_CHECK, VISITS_PER_ROUND,
};
use crate::base::kind::{Kind, Medium, Small};
use crate::base::size_class::{Class, SizeClass};
use crate::heap::Heap;
use crate::heap::door::Door;
use crate::os;
use crate::pool_set::Inside;
use crate::sync::Ordering;

impl ThreadCache {
    /// Visits the next class, if one is due: at the end of a slow call of `calling`.
    #[inline]
    pub(super) fn age<K: Kind>(&self, calling: Class<K>, heap: &'static Heap, inside: &mut Inside<'_>) {
        if self.calls::<K>().get(inside.door()).is_multiple_of(SLOW_CALLS_PER_VISIT) {
            self.visit_next(Some(calling), heap, inside);
            if !K::IS_SMALL {
                // A thread that goes over to medium blocks may make no slow calls of small ones.
                self.visit_next::<Small>(None, heap, inside);
            }
        }
    }

    /// Counts a large request; visits the next classes, if a round is due. `uses_malloc` says whether the C library's
    /// `malloc` serves it.
    #[inline(always)]
    pub(crate) fn note_large(&self, bytes: usize, uses_malloc: fn() -> bool) {
        // Relaxed (both): this thread's own count. Threads share the stand-ins, where counts may be lost.
        let large = self.large_bytes.load(Ordering::Relaxed).wrapping_add(bytes);
        self.large_bytes.store(large, Ordering::Relaxed);
        if large >= LARGE_BYTES_PER_ROUND {
            self.age_by_large(large, uses_malloc);
        }
    }

    /// Takes back the count of a large request: a medium request makes slow calls of its own.
    #[inline(always)]
    pub(crate) fn forget_large(&self, bytes: usize) {
        // Relaxed (both): as in `note_large`.
        let large = self.large_bytes.load(Ordering::Relaxed).saturating_sub(bytes);
        self.large_bytes.store(large, Ordering::Relaxed);
    }

    #[cold]
    #[inline(never)]
    fn age_by_large(&self, bytes: usize, uses_malloc: fn() -> bool) {
        // Relaxed: as in `note_large`.
        self.large_bytes.store(0, Ordering::Relaxed);
        if let Some(heap) = self.heap.get() {
            if !os::BYPASS {
                self.malloc.count(bytes, uses_malloc);
            }
            // Refused if another thread is inside, or if this thread is and a signal handler interrupted it. Then the
            // next round that is due makes up for it.
            self.set.try_enter(heap, |inside| {
                (0..VISITS_PER_ROUND).for_each(|_| self.visit_next::<Small>(None, heap, inside));
                if self.has_medium(inside.door()) {
                    (0..VISITS_PER_ROUND).for_each(|_| self.visit_next::<Medium>(None, heap, inside));
                }
            });
        }
    }

    /// Visits the next class of a kind. The quarantine of `calling` is left alone, because its blocks may be on their
    /// way to the magazine.
    #[cold]
    #[cfg_attr(target_os = "linux", unsafe(link_section = ".text_pymalloc"))]
    fn visit_next<K: Kind>(&self, calling: Option<Class<K>>, heap: &'static Heap, inside: &mut Inside<'_>) {
        let door = inside.door();
        let visits = self.visits::<K>().get(door).wrapping_add(1);
        self.visits::<K>().set(door, visits);
        if let Some(class) = Class::<K>::from_number(visits as usize & (CLASS_COUNT - 1)) {
            let all = (visits / CLASS_COUNT as u64 + 1).is_multiple_of(VISITS_PER_CHECK);
            self.visit(class, all, heap, inside);
            if Some(class) != calling && self.shape(class).seen.get(door) == 0 {
                self.hardened.flush_class(class, inside);
            }
        }
    }

    /// Lowers the floor: the thread takes a block from below it, so it uses them.
    #[inline]
    pub(super) fn lower_floor<K: Kind>(&self, class: Class<K>, door: Door<'_>) {
        if self.shape(class).spare.replace(door, 0) != 0 {
            self.set_bounds(class, door);
        }
    }

    /// Sends home the blocks that the class did not use since its last visit, or all its blocks.
    fn visit<K: Kind>(&self, class: Class<K>, all: bool, heap: &'static Heap, inside: &mut Inside<'_>) {
        let door = inside.door();
        if self.depot_rests(class, door) {
            self.close(class, heap, inside);
        } else if all {
            self.flush_depot(class, inside);
        }
        let shape = self.shape(class);
        let blocks = self.blocks(class, door).len();
        let spare = usize::from(shape.spare.get(door));
        let rests = spare != 0 && blocks == usize::from(shape.seen.get(door));
        if blocks != 0 {
            let unused = if all || rests || !shape.allocated.get(door) { blocks } else { spare.min(blocks) };
            self.flush(class, unused, inside);
            let left = blocks - unused;
            shape.spare.set(door, (left - left / 4) as u16);
            shape.seen.set(door, left as u16);
            self.set_bounds(class, door);
        } else if shape.seen.replace(door, 0) == 0
            && self.depot_is_empty(class, door)
            && self.slots(class, door) > MAGAZINE_SLOTS_MIN
        {
            shape.slow_calls.set(door, 0);
            self.make_small(class, heap, door);
            self.free_chunks(class, heap, door);
        }
    }
}

const _: () = {
    assert!(SLOW_CALLS_PER_VISIT.is_power_of_two());
    // `spare` and `seen` are counts of 16 bits.
    assert!(capacity_max(SizeClass::SMALLEST) <= u16::MAX as usize);
};
