//! The hooks of the thread cache.

use core::ptr::NonNull;

use super::quarantine::{Quarantine, STAY_MIN, Shelf};
use super::random::Random;
use super::zero;
use crate::base::config::CLASS_STEP_SHIFT;
use crate::base::fatal::{Impossible, impossible};
use crate::base::kind::{Kind, Small};
use crate::base::size_class::{Class, SizeClass};
use crate::cache::{GLOBAL, ThreadCache, is_abandoned};
use crate::heap::Heap;
use crate::heap::door::Door;
use crate::heap::pool::Slot;
use crate::heap::set::tag_class;
use crate::os::BYPASS;
use crate::pool_set::{Inside, misplaced};
use crate::protocols::block_state::{BlockState, FREED, LIVE, NEVER};
use crate::sync::Ordering;

// Each mechanism can be left out, to measure what it costs: `RUSTFLAGS='--cfg pymalloc_without="zero"'`. That is no
// feature, because a program has the sum of all features that its crates ask for.
const CHECKS: bool = !cfg!(pymalloc_without = "checks");
const SHUFFLES: bool = !cfg!(pymalloc_without = "random");
const QUARANTINES: bool = !cfg!(pymalloc_without = "quarantine");
const CLEARS: bool = !cfg!(pymalloc_without = "zero");

/// Whether calls need the hooks below, even while the thread's magazine can serve them.
#[cfg(feature = "__raw")]
pub(crate) const LOOKS_ON: bool = true;

/// Most blocks of a class in a thread's quarantine.
#[cfg(test)]
pub(crate) const QUARANTINE_SLOTS: usize = super::quarantine::SLOTS;

/// The feature's part of a thread cache. Zeroed memory is a valid value.
pub(crate) struct PerThread {
    random: Random,
    quarantine: Quarantine,
}

impl PerThread {
    pub(crate) const fn new() -> Self {
        Self { random: Random::new(), quarantine: Quarantine::new() }
    }

    /// Prepares the cache for the thread that got it.
    pub(crate) fn attach(&self, door: Door<'_>) {
        self.random.seed();
        self.quarantine.attach(door);
    }

    /// Switches the quarantine on or off.
    pub(crate) fn set_quarantine(&self, on: bool, door: Door<'_>) {
        self.quarantine.set_on(on && QUARANTINES, door);
    }

    /// Puts blocks of a refill in random order.
    pub(crate) fn shuffle(&self, slots: &[Slot], _door: Door<'_>) {
        if SHUFFLES {
            self.random.shuffle(slots);
        }
    }

    /// The blocks of `class` in quarantine.
    pub(crate) fn held<K: Kind>(&self, class: Class<K>, door: Door<'_>) -> impl Iterator<Item = *mut u8> {
        class.small().into_iter().flat_map(move |class| self.quarantine.held(class, door))
    }

    /// Returns all blocks in quarantine to their pools; aborts if one was written into.
    pub(crate) fn flush(&self, inside: &mut Inside<'_>) {
        SizeClass::all().for_each(|class| self.flush_class(class, inside));
    }

    /// The same for one class.
    pub(crate) fn flush_class<K: Kind>(&self, class: Class<K>, inside: &mut Inside<'_>) {
        let Some(class) = class.small() else { return };
        self.quarantine.empty(class, inside.door(), |slots| {
            check_clean(class, slots);
            inside.give(class, slots);
        });
    }
}

/// The heap to which the blocks of a thread with `cache` belong.
#[inline(always)]
fn heap_of(cache: &ThreadCache) -> &'static Heap {
    // The program has one heap, whose address is a constant. A test has more.
    if cfg!(test) { cache.heap().unwrap_or(&GLOBAL) } else { &GLOBAL }
}

/// The state of the block at `address`; `None` if none can start there.
#[inline(always)]
fn state_at(heap: &'static Heap, address: usize) -> Option<&'static BlockState> {
    // The rotation moves the bits below a step to the top. So one comparison refuses addresses that are not at a step,
    // and addresses beyond all memory.
    let step = address.rotate_right(CLASS_STEP_SHIFT);
    Some(heap.map.arena_at_step(step)?.get().block_state(step))
}

/// A block that leaves its magazine for the program.
///
/// `block` is of `class`, and free.
#[inline(always)]
pub(crate) fn handed_out<K: Kind>(cache: &ThreadCache, class: Class<K>, block: *mut u8) -> *mut u8 {
    hand_out(heap_of(cache), class, block);
    block
}

/// The same in a thread without a cache.
pub(crate) fn handed_out_spare<K: Kind>(heap: &'static Heap, class: Class<K>, block: *mut u8) {
    hand_out(heap, class, block);
}

#[inline(always)]
fn hand_out<K: Kind>(heap: &'static Heap, class: Class<K>, block: *mut u8) {
    if !CHECKS || block.is_null() {
        return;
    }
    // SAFETY: the block leaves a magazine or a pool. It was found in the map before it was put there, and an arena with
    // a block outside stays in the map (*Known*).
    let state = unsafe { state_at(heap, block.addr()).unwrap_unchecked() };
    let before = state.hand_out(class.index() as u8);
    // SAFETY: a free block of 8 bytes at least, aligned to them, the caller's.
    if before == FREED && (!CLEARS || !K::IS_SMALL || unsafe { block.cast::<u64>().read() } == 0) {
        return;
    }
    // A block that was never handed out is as it was mapped: don't touch it before the program does.
    if before != NEVER {
        refuse_to_hand_out(class, block, before);
    }
}

#[cold]
#[inline(never)]
fn refuse_to_hand_out<K: Kind>(class: Class<K>, block: *mut u8, before: u8) -> ! {
    let what = if before & LIVE != 0 { Impossible::HandedOutTwice } else { Impossible::WrittenAfterFree };
    impossible(what, block.addr(), class.block_bytes())
}

/// Aborts unless the freed blocks in `slots` are zero. Either all slots hold a block, or none does.
#[inline(always)]
fn check_clean(class: SizeClass, slots: &[Slot]) {
    // Relaxed (both): the slots are the thread's own, or under the door.
    if !CLEARS || slots.first().is_none_or(|slot| slot.load(Ordering::Relaxed).is_null()) {
        return;
    }
    // SAFETY: free blocks, the caller's. Not null.
    let block = |slot: &Slot| unsafe { NonNull::new_unchecked(slot.load(Ordering::Relaxed)) };
    // SAFETY: as above; cleared when they were freed.
    if !unsafe { zero::are_clear(class, slots.iter().map(block)) } {
        written_after_free(class, slots);
    }
}

#[cold]
#[inline(never)]
fn written_after_free(class: SizeClass, slots: &[Slot]) -> ! {
    // Relaxed: as above.
    let mut blocks = slots.iter().filter_map(|slot| NonNull::new(slot.load(Ordering::Relaxed)));
    // SAFETY: as above.
    let written = blocks.find(|&block| !unsafe { zero::are_clear(class, core::iter::once(block)) });
    impossible(Impossible::WrittenAfterFree, written.map_or(0, |block| block.addr().get()), class.block_bytes())
}

/// Checks a free, clears the block, and puts it into quarantine. Returns a block that goes to the magazine, if any.
#[inline(always)]
pub(crate) fn freed<K: Kind>(cache: &ThreadCache, class: Class<K>, block: *mut u8) -> Option<*mut u8> {
    check_free(heap_of(cache), class, block);
    let Some(class) = class.small() else {
        // Medium blocks do not wait. They are cleared, because their memory may serve small blocks next (*Clean*).
        if CLEARS {
            // SAFETY: a block of the class, which the caller gave up.
            unsafe { block.write_bytes(0, class.block_bytes()) };
        }
        return Some(block);
    };
    if !QUARANTINES {
        clear(class, block);
        return Some(block);
    }
    if zero::is_long(class) {
        clear_and_hold(cache, class, block);
    } else {
        clear(class, block);
        hold(cache, class, block);
    }
    None
}

/// Clears a long block, and puts it into quarantine. Out of line and last, so that a free of a short block saves no
/// registers for a call.
#[inline(never)]
fn clear_and_hold(cache: &ThreadCache, class: SizeClass, block: *mut u8) {
    clear(class, block);
    hold(cache, class, block);
}

#[inline(always)]
fn clear(class: SizeClass, block: *mut u8) {
    if CLEARS {
        // SAFETY: a block of the class, which the caller gave up. Not null: no arena holds address 0.
        unsafe { zero::clear(class, NonNull::new_unchecked(block)) };
    }
}

/// Puts `block` into quarantine.
#[inline(always)]
fn hold(cache: &ThreadCache, class: SizeClass, block: *mut u8) {
    if !cache.hardened.quarantine.push(class, block) {
        change_shelves(cache, class, block);
    }
}

/// Puts `block` into quarantine. First, the blocks that waited long enough are checked and go to the magazine.
#[cold]
#[inline(never)]
fn change_shelves(cache: &ThreadCache, class: SizeClass, block: *mut u8) {
    let PerThread { random, quarantine } = &cache.hardened;
    if quarantine.is_off(class) {
        return cache.put(class, block);
    }
    quarantine.turn(class, |shelf: &Shelf| {
        check_clean(class, shelf);
        if SHUFFLES {
            cache.put_all(class, shelf, random.order::<STAY_MIN>());
        } else {
            cache.put_all(class, shelf, (0..STAY_MIN).rev());
        }
    });
    if !quarantine.push(class, block) {
        cache.put(class, block);
    }
}

/// [`freed`] in a thread without a cache, whose blocks go to their pools at once.
#[cfg(test)]
pub(crate) fn freed_spare<K: Kind>(heap: &'static Heap, class: Class<K>, block: *mut u8) {
    check_free(heap, class, block);
    if let Some(class) = class.small() {
        clear(class, block);
    }
}

/// Aborts unless the program has the block, as one of `class`. From now on the program does not have it.
#[inline(always)]
fn check_free<K: Kind>(heap: &'static Heap, class: Class<K>, block: *mut u8) {
    if CHECKS {
        let Some(state) = state_at(heap, block.addr()) else {
            // A block of the system's, at the process's end (`cache/abandoned.rs`).
            if is_abandoned() {
                return;
            }
            refuse(heap, class, block.addr(), NEVER)
        };
        if let Err(before) = state.free(class.index() as u8) {
            refuse(heap, class, block.addr(), before);
        }
    }
}

/// Aborts unless the program has the block.
#[inline(always)]
pub(crate) fn check_live<K: Kind>(cache: &ThreadCache, class: Class<K>, block: *mut u8) {
    if !CHECKS || BYPASS {
        return;
    }
    let heap = heap_of(cache);
    let found = state_at(heap, block.addr()).map_or(Err(NEVER), |state| state.check(class.index() as u8));
    if let Err(now) = found
        && !is_abandoned()
    {
        refuse(heap, class, block.addr(), now);
    }
}

/// Aborts if a block that is freed as large lies in an arena, unless its pool may be one of `Medium`'s.
#[inline(always)]
pub(crate) fn check_large(block: *mut u8) {
    if CHECKS
        && !BYPASS
        && let Some(pool) = GLOBAL.map.pool_of(block.addr())
    {
        // Relaxed: the block's pool has its tag as long as the block is outside.
        let tag = pool.tag().load(Ordering::Relaxed);
        if tag.is_null() || tag_class::<Small>(tag).is_some() {
            impossible(Impossible::SmallAsLarge, block.addr(), 0);
        }
    }
}

/// Aborts if a block that is freed as too large for `Medium` lies in an arena.
#[inline(always)]
pub(crate) fn check_beyond(block: *mut u8) {
    if CHECKS && !BYPASS && GLOBAL.map.arena_of(block.addr()).is_some() {
        impossible(Impossible::SmallAsLarge, block.addr(), 0);
    }
}

/// Aborts, and says what is impossible about the free of a block of `class` at `address`, whose state was `before`.
#[cold]
#[inline(never)]
fn refuse<K: Kind>(heap: &'static Heap, class: Class<K>, address: usize, before: u8) -> ! {
    let what =
        misplaced(heap, class, address).unwrap_or(if class.block_at(address & (class.pool_bytes() - 1)).is_none() {
            Impossible::NoBlockStart
        } else if before == FREED {
            Impossible::AlreadyFree
        } else {
            Impossible::NeverAllocated
        });
    impossible(what, address, class.block_bytes())
}

/// Gives the thread of a forked child random choices of its own.
pub(crate) fn forked() {
    crate::cache::with_thread(|cache| cache.hardened.random.seed());
}

#[cfg(test)]
mod tests {
    use core::ptr::NonNull;

    use super::*;
    use crate::heap::set::PoolSet;
    use crate::tests::test_heap::{TestHeap, class, fill};

    #[test]
    fn a_cache_whose_thread_a_forked_child_does_not_have_is_taken_over_under_its_door() {
        let test = TestHeap::new();
        let cache = test.attach();
        let class = class(64);
        fill(cache, 64, 64 * QUARANTINE_SLOTS).into_iter().for_each(|block| block.free(cache));
        // The child's fork handler does the same, with blocks that wait.
        PoolSet::park(NonNull::from(cache).cast(), test.heap);
        let next = || cache.hardened.quarantine.next(class);
        let before = next();
        std::thread::scope(|scope| {
            // Like a purge that is inside, or has been waiting for the door since before.
            cache.set.enter(test.heap, |_| {
                let new = scope.spawn(|| test.attach());
                while !cache.set.door.is_awaited() {
                    std::thread::yield_now();
                }
                assert!(!new.is_finished() && next() == before, "the new thread changes what others may empty");
            });
        });
        assert_ne!(next(), before, "the blocks that wait longest are to leave first");
        cache.release();
        assert_eq!(test.check().blocks_live(), 0);
    }
}
