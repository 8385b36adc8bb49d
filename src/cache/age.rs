//! Ageing: blocks that a thread's cache did not need for a while go home, so that they pin no pools.
//!
//! Every few slow calls visit one class, whichever called, and all classes in turn. So do every few bytes of large
//! requests: a thread that goes over to large blocks makes no slow calls, and what its caches keep is in their way. A
//! visit finds out what the class did not use since its last visit, and gives it back:
//!
//! - *Magazine.* A visit raises the magazine's floor to three quarters of its blocks. An allocation that would go below
//!   the floor takes the slow path, once, and that lowers the floor again. So a floor that still stands at the next visit
//!   is a low-water mark: the blocks below it were not used, and go home. If the top is where it was, too, all blocks go:
//!   most likely nobody used them, and if somebody did, a refill makes good for it. The fast path has no instruction
//!   more for all that.
//! - *Depot.* If it held a chunk all the time since the last visit, the class is in a long row of frees, or not used: all
//!   of its blocks go home, and it stows nothing more until it is allocated from (`close`).
//! - *Quarantine* (feature `hardened`). It is emptied when the visit leaves nothing in the magazine.
//! - *All.* One visit in a few sends home all that the class has. Two copies of a block that was freed twice could
//!   else go round for ever between magazine and depot; on their way home the second one finds the first.
//! - *Arrays.* A magazine that was empty at two visits in a row becomes small again.
//!
//! The mark is Bonwick's for depots (USENIX 2001, working set), carried over to magazines.
//!
//! # Invariants
//! - *Floor*: of a magazine that is neither poisoned nor of strangers, `floor` is `base + spare`. `spare` is at most the
//!   number of its blocks, except that the thread may have popped some since: then it took the slow path, or will.

use super::{ThreadCache, capacity_max};
use crate::base::config::{
    CLASS_COUNT, LARGE_BYTES_PER_ROUND, MAGAZINE_SLOTS_MIN, SLOW_CALLS_PER_VISIT, VISITS_PER_CHECK, VISITS_PER_ROUND,
};
use crate::base::kind::{Kind, Medium, Small};
use crate::base::size_class::{Class, SizeClass};
use crate::heap::Heap;
use crate::heap::door::Door;
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

    /// Notes a large request; visits the next classes, if a round is due.
    #[inline(always)]
    pub(crate) fn note_large(&self, bytes: usize) {
        // Relaxed (both): only this thread's count, but in a stand-in, where counts may be lost.
        let large = self.large_bytes.load(Ordering::Relaxed).wrapping_add(bytes);
        self.large_bytes.store(large, Ordering::Relaxed);
        if large >= LARGE_BYTES_PER_ROUND {
            self.age_by_large();
        }
    }

    /// Takes back that a request is large: it makes slow calls of its own.
    #[inline(always)]
    pub(crate) fn forget_large(&self, bytes: usize) {
        // Relaxed (both): as in `note_large`.
        let large = self.large_bytes.load(Ordering::Relaxed).saturating_sub(bytes);
        self.large_bytes.store(large, Ordering::Relaxed);
    }

    #[cold]
    #[inline(never)]
    fn age_by_large(&self) {
        // Relaxed: as in `note_large`.
        self.large_bytes.store(0, Ordering::Relaxed);
        if let Some(heap) = self.heap.get() {
            // Refused if another thread is inside, or this one, which a signal handler interrupted: the next request that
            // is due makes the round.
            self.set.try_enter(heap, |inside| {
                (0..VISITS_PER_ROUND).for_each(|_| self.visit_next::<Small>(None, heap, inside));
                if self.has_medium(inside.door()) {
                    (0..VISITS_PER_ROUND).for_each(|_| self.visit_next::<Medium>(None, heap, inside));
                }
            });
        }
    }

    /// Visits the next class of a kind. Blocks of `calling` may be on their way from the quarantine to the magazine.
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

    /// The thread took a block from below the floor: it uses them.
    #[inline]
    pub(super) fn lower_floor<K: Kind>(&self, class: Class<K>, door: Door<'_>) {
        if self.shape(class).spare.replace(door, 0) != 0 {
            self.set_bounds(class, door);
        }
    }

    /// Gives home what the class did not use since its last visit, or all that it has.
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
