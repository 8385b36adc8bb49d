//! The slow path: a magazine is empty, full, poisoned, or not allocated from yet. Everything here is cold.
//!
//! # Call tree
//! ```text
//! alloc_slow                   no block at hand
//! ├─ send_strangers_home       the first of its class
//! ├─ pop                       the magazine was only poisoned, or its floor raised
//! ├─ refill                    half the magazine
//! │  ├─ unstow                 the last chunk of the depot, if there is one
//! │  ├─ grow                   a larger array for a magazine in use
//! │  ├─ Inside::take
//! │  └─ flush_all, take again  no memory: the other magazines' blocks
//! └─ last_resort::take         still none: one block, from behind any door
//! alloc_zeroed_slow            one block, known to be zero or not
//! ├─ send_strangers_home
//! ├─ pop                       the magazine was only poisoned
//! ├─ Inside::take_one          or flush_all, and take_one again
//! ├─ refill                    the block was used before
//! └─ last_resort::take         as above
//! free_slow                    no room
//! ├─ push                      the magazine was only poisoned
//! ├─ grow
//! └─ make_room
//!    ├─ stow                   the older half into the depot
//!    └─ Inside::give           otherwise it goes home, or all blocks do
//! age                          at the end of every few of these: blocks that a class does not use go home
//! make_all_small               the thread ends, or flushes its cache
//! ```

use core::ptr::{self, NonNull};

use super::{ThreadCache, capacity_max, last_resort, slot};
use crate::base::config::{CLOSED_SLOTS_MAX, MAGAZINE_SLOTS_MIN};
use crate::base::fatal::{Impossible, impossible};
use crate::base::kind::{Kind, Medium, Small};
use crate::base::size_class::{Class, MediumClass, SizeClass};
use crate::cache::hardened;
use crate::heap::Heap;
use crate::heap::door::{Door, DoorCell};
use crate::heap::pool::Block;
use crate::heap::pool::Slot;
use crate::observe::{self, Request};
use crate::pool_set::Inside;
use crate::sync::{AtomicPtr, Ordering};

/// Slow calls of a class before its magazine grows: a class used once keeps the small one.
const SLOW_CALLS_BEFORE_GROWTH: u8 = 1;

/// The functions that the fast path calls. Each kind has its own, not generic ones: so they are compiled once, with
/// this crate.
pub(crate) trait Slow: Kind {
    /// Allocates a block, where the magazine has none.
    fn alloc_slow(cache: &ThreadCache, class: Class<Self>, request: Request) -> *mut u8;
    /// The same with all bytes zero.
    fn alloc_zeroed_slow(cache: &ThreadCache, class: Class<Self>, request: Request) -> *mut u8;
    /// Takes back a block for which the magazine has no room.
    fn free_slow(cache: &ThreadCache, class: Class<Self>, block: *mut u8);
}

/// Implements [`Slow`] for a kind.
macro_rules! slow {
    ($kind:ty, $class:ty) => {
        impl Slow for $kind {
            #[cold]
            #[inline(never)]
            #[cfg_attr(target_os = "linux", unsafe(link_section = ".text_pymalloc"))]
            fn alloc_slow(cache: &ThreadCache, class: $class, request: Request) -> *mut u8 {
                cache.alloc_slow(class, request)
            }

            #[cold]
            #[inline(never)]
            #[cfg_attr(target_os = "linux", unsafe(link_section = ".text_pymalloc"))]
            fn alloc_zeroed_slow(cache: &ThreadCache, class: $class, request: Request) -> *mut u8 {
                cache.alloc_zeroed_slow(class, request)
            }

            #[cold]
            #[inline(never)]
            #[cfg_attr(target_os = "linux", unsafe(link_section = ".text_pymalloc"))]
            fn free_slow(cache: &ThreadCache, class: $class, block: *mut u8) {
                cache.free_slow(class, block);
            }
        }
    };
}

slow!(Small, SizeClass);
slow!(Medium, MediumClass);

impl ThreadCache {
    #[inline(always)]
    fn alloc_slow<K: Slow>(&self, class: Class<K>, request: Request) -> *mut u8 {
        let Some(heap) = self.heap.get() else {
            return slot::alloc_without_cache(class, request);
        };
        let block = self.set.enter(heap, |inside| {
            let door = inside.door();
            self.note_slow_call::<K>(door);
            self.send_strangers_home(class, inside);
            self.lower_floor(class, door);
            if let Some(block) = self.pop(class, door) {
                return block;
            }
            self.refill(class, heap, inside);
            let block = self.pop(class, door).unwrap_or(ptr::null_mut());
            self.age(class, heap, inside);
            block
        });
        let block = if block.is_null() { self.alloc_at_last(class, heap) } else { block };
        let block = hardened::handed_out(self, class, block);
        if K::IS_SMALL {
            observe::allocated(block, class.block_bytes(), request);
        }
        block
    }

    /// A block from behind any door, or null. The caller holds no door.
    #[cold]
    fn alloc_at_last<K: Kind>(&self, class: Class<K>, heap: &Heap) -> *mut u8 {
        last_resort::take(heap, &self.set, class).map_or(ptr::null_mut(), |block| block.start.as_ptr())
    }

    /// Before the first allocation from a class: empties its magazine of other threads' blocks (*Strangers*).
    #[inline(always)]
    fn send_strangers_home<K: Kind>(&self, class: Class<K>, inside: &mut Inside<'_>) {
        if !self.shape(class).allocated.replace(inside.door(), true) {
            self.send_all_home(class, inside);
        }
    }

    #[cold]
    #[cfg_attr(target_os = "linux", unsafe(link_section = ".text_pymalloc"))]
    fn send_all_home<K: Kind>(&self, class: Class<K>, inside: &mut Inside<'_>) {
        let door = inside.door();
        self.flush(class, self.blocks(class, door).len(), inside);
        self.set_bounds(class, door);
    }

    /// Fills half of an empty magazine.
    #[cfg_attr(target_os = "linux", unsafe(link_section = ".text_pymalloc"))]
    fn refill<K: Kind>(&self, class: Class<K>, heap: &'static Heap, inside: &mut Inside<'_>) {
        let door = inside.door();
        self.count_filled(class, door);
        self.fill(class, heap, inside);
        self.note_filled(class, door);
    }

    #[inline(always)]
    fn fill<K: Kind>(&self, class: Class<K>, heap: &'static Heap, inside: &mut Inside<'_>) {
        let door = inside.door();
        if self.unstow(class, door) {
            return;
        }
        self.grow(class, heap, door);
        let slots = self.array(class, door);
        let refill = slots.get(..slots.len() / 2).unwrap_or_default();
        let mut taken = inside.take(class, refill);
        if taken == 0 {
            self.flush_all(inside);
            taken = inside.take(class, refill);
        }
        self.hardened.shuffle(slots.get(..taken).unwrap_or_default(), door);
        self.magazine(class).set_top(taken, door);
    }

    /// A block of `class` whose bytes are all zero, or null. A block that is known to be zero is not touched.
    #[inline]
    pub(crate) fn alloc_zeroed<K: Slow>(&self, class: Class<K>, request: Request) -> *mut u8 {
        let magazine = self.magazine(class);
        // Relaxed (both): as in `alloc`.
        if magazine.top.load(Ordering::Relaxed) > magazine.floor.load(Ordering::Relaxed) {
            let block = self.alloc(class, request);
            // SAFETY: a block of the class, in our hands.
            unsafe { block.write_bytes(0, class.block_bytes()) };
            return block;
        }
        K::alloc_zeroed_slow(self, class, request)
    }

    /// Takes one block from a pool, past the magazine, because the pool knows which of its memory was never used. If
    /// the block was used before, refills the magazine: the next blocks were most likely used, too.
    #[inline(always)]
    fn alloc_zeroed_slow<K: Slow>(&self, class: Class<K>, request: Request) -> *mut u8 {
        let Some(heap) = self.heap.get() else { return slot::alloc_zeroed_without_cache(class, request) };
        let block = self.set.enter(heap, |inside| {
            let door = inside.door();
            self.note_slow_call::<K>(door);
            self.send_strangers_home(class, inside);
            self.lower_floor(class, door);
            if let Some(block) = self.pop(class, door).and_then(NonNull::new) {
                return Some(Block { start: block, zeroed: false });
            }
            let block = inside.take_one(class).or_else(|| {
                self.flush_all(inside);
                inside.take_one(class)
            })?;
            self.note_allocation(door);
            if !block.zeroed {
                self.refill(class, heap, inside);
            }
            self.age(class, heap, inside);
            Some(block)
        });
        let block = block.or_else(|| last_resort::take(heap, &self.set, class));
        let block = block.map_or(ptr::null_mut(), |block| block.into_zeroed(class));
        let block = hardened::handed_out(self, class, block);
        if K::IS_SMALL {
            observe::allocated(block, class.block_bytes(), request);
        }
        block
    }

    #[inline(always)]
    fn free_slow<K: Slow>(&self, class: Class<K>, block: *mut u8) {
        let Some(heap) = self.heap.get() else {
            return slot::free_without_cache(class, block);
        };
        if K::IS_SMALL {
            observe::freed(block, class.block_bytes());
        }
        self.set.enter(heap, |inside| {
            let door = inside.door();
            self.note_slow_call::<K>(door);
            self.refuse_last(class, block, door);
            if self.push(class, block, door) {
                return;
            }
            if !self.depot_is_closed(class, door) {
                self.grow(class, heap, door);
            }
            if !self.push(class, block, door) {
                self.make_room(class, heap, inside);
                self.push(class, block, door);
            }
            self.age(class, heap, inside);
        });
    }

    /// Takes blocks out of a full magazine: the older half goes to the depot, or home if the depot has no room. In a
    /// long row of frees the depot is closed. Then all blocks go home, and the magazine keeps few slots: the blocks
    /// left in it when the row ends may be all that the thread has, each on an OS page of its own.
    fn make_room<K: Kind>(&self, class: Class<K>, heap: &'static Heap, inside: &mut Inside<'_>) {
        if self.stow(class, heap, inside) {
            return;
        }
        let door = inside.door();
        if self.depot_is_closed(class, door) {
            self.close(class, heap, inside);
        } else {
            self.flush(class, self.slots(class, door) / 2, inside);
        }
    }

    /// Closes the class, which is in a long row of frees: sends home the blocks of its depot and its magazine, stows
    /// nothing more until the next allocation from the class, and leaves the magazine few slots.
    pub(super) fn close<K: Kind>(&self, class: Class<K>, heap: &'static Heap, inside: &mut Inside<'_>) {
        self.close_depot(class, inside);
        let door = inside.door();
        self.flush(class, self.blocks(class, door).len(), inside);
        if self.slots(class, door) > CLOSED_SLOTS_MAX {
            self.resize(class, CLOSED_SLOTS_MAX, heap, door);
        }
    }

    /// Aborts if the block is already the last one in the magazine.
    fn refuse_last<K: Kind>(&self, class: Class<K>, block: *mut u8, door: Door<'_>) {
        // Relaxed: this thread's own slot.
        if self.blocks(class, door).last().is_some_and(|last| last.load(Ordering::Relaxed) == block) {
            impossible(Impossible::AlreadyFree, block.addr(), class.block_bytes());
        }
    }

    /// Counts a slow call; the first medium one of a cache gives its medium magazines their arrays.
    #[inline(always)]
    fn note_slow_call<K: Kind>(&self, door: Door<'_>) {
        if !K::IS_SMALL {
            self.start_medium(door);
        }
        let calls = self.calls::<K>();
        calls.set(door, calls.get(door).wrapping_add(1));
    }

    /// The visits to classes of a kind (see `age`).
    #[inline(always)]
    pub(super) const fn visits<K: Kind>(&self) -> &DoorCell<u64> {
        if K::IS_SMALL { &self.visits } else { &self.medium.visits }
    }

    /// The calls on the slow path of a kind.
    #[inline(always)]
    pub(super) const fn calls<K: Kind>(&self) -> &DoorCell<u64> {
        if K::IS_SMALL { &self.slow_calls } else { &self.medium.slow_calls }
    }

    /// All slots of the magazine.
    pub(super) fn array<'door, K: Kind>(&self, class: Class<K>, door: Door<'door>) -> &'door [Slot] {
        // Relaxed: under the door. SAFETY: the array has that many slots (*Bounds*).
        unsafe {
            let base = self.magazine(class).base.load(Ordering::Relaxed);
            core::slice::from_raw_parts(base, self.slots(class, door))
        }
    }

    /// Takes the last block, whether the magazine is poisoned or not.
    fn pop<K: Kind>(&self, class: Class<K>, door: Door<'_>) -> Option<*mut u8> {
        let block =
            self.blocks(class, door).split_last().map(|(last, rest)| (last.load(Ordering::Relaxed), rest.len()));
        block.map(|(block, left)| {
            self.magazine(class).set_top(left, door);
            block
        })
    }

    /// Adds a block if there is room, whether the magazine is poisoned or not.
    fn push<K: Kind>(&self, class: Class<K>, block: *mut u8, door: Door<'_>) -> bool {
        let used = self.blocks(class, door).len();
        let Some(slot) = self.array(class, door).get(used) else {
            return false;
        };
        // Relaxed: published by `top`.
        slot.store(block, Ordering::Relaxed);
        self.magazine(class).set_top(used + 1, door);
        true
    }

    /// Returns the oldest `blocks` of the magazine to their pools.
    pub(super) fn flush<K: Kind>(&self, class: Class<K>, blocks: usize, inside: &mut Inside<'_>) {
        if blocks != 0 {
            let door = inside.door();
            inside.give(class, self.blocks(class, door).get(..blocks).unwrap_or_default());
            self.drop_oldest(class, blocks, door);
        }
    }

    /// Takes the oldest `blocks`, which went elsewhere, out of the magazine.
    #[inline]
    pub(super) fn drop_oldest<K: Kind>(&self, class: Class<K>, blocks: usize, door: Door<'_>) {
        let all = self.blocks(class, door);
        let left = all.len().saturating_sub(blocks);
        self.note_left(class, door);
        let spare = &self.shape(class).spare;
        if spare.get(door) != 0 {
            spare.set(door, spare.get(door).saturating_sub(blocks as u16));
            self.set_bounds(class, door);
        }
        // Both pointers are derived from the whole magazine: a pointer to the oldest blocks alone must not be used to
        // write beyond them. A plain copy will do: other threads read slots under the door only.
        // SAFETY: both are in the magazine's array; slots are cells, so writing through a shared reference is fine.
        unsafe { ptr::copy(all.as_ptr().add(all.len() - left), all.as_ptr().cast_mut(), left) };
        self.magazine(class).set_top(left, door);
    }

    /// Empties all magazines and depots.
    pub(crate) fn flush_all(&self, inside: &mut Inside<'_>) {
        self.flush_depots(inside);
        self.hardened.flush(inside);
        for class in SizeClass::all() {
            self.flush(class, self.blocks(class, inside.door()).len(), inside);
        }
        if self.has_medium(inside.door()) {
            for class in MediumClass::all() {
                self.flush(class, self.blocks(class, inside.door()).len(), inside);
            }
        }
    }

    /// Doubles the array of a magazine in use, if there is memory for it.
    #[cfg_attr(target_os = "linux", unsafe(link_section = ".text_pymalloc"))]
    fn grow<K: Kind>(&self, class: Class<K>, heap: &'static Heap, door: Door<'_>) {
        let shape = self.shape(class);
        let old = self.slots(class, door);
        if shape.slow_calls.get(door) < SLOW_CALLS_BEFORE_GROWTH {
            shape.slow_calls.set(door, shape.slow_calls.get(door) + 1);
            return;
        }
        if old >= capacity_max(class) {
            return;
        }
        self.resize(class, old * 2, heap, door);
    }

    /// Gives a magazine an array of `new` slots, if there is memory for it. The array has room for the magazine's
    /// blocks.
    #[cfg_attr(target_os = "linux", unsafe(link_section = ".text_pymalloc"))]
    fn resize<K: Kind>(&self, class: Class<K>, new: usize, heap: &'static Heap, door: Door<'_>) {
        let array = heap.with_state(|state, source| state.metadata.alloc_array(new * size_of::<Slot>(), source));
        let Some(array) = array else { return };
        let array = array.cast::<Slot>();
        let (old_array, old) = (self.array(class, door).as_ptr(), self.slots(class, door));
        let blocks = self.blocks(class, door);
        let count = blocks.len();
        for (index, block) in blocks.iter().enumerate() {
            // SAFETY: `count <= new` slots of an array that is ours alone.
            unsafe { array.add(index).write(AtomicPtr::new(block.load(Ordering::Relaxed))) };
        }
        for index in count..new {
            // SAFETY: as above.
            unsafe { array.add(index).write(AtomicPtr::new(ptr::null_mut())) };
        }
        self.set_array(class, array.as_ptr(), new, door);
        self.magazine(class).set_top(count, door);
        self.free_array(class, old_array, old, heap);
    }

    /// Frees an array that a magazine had, unless it is the one inside the cache.
    fn free_array<K: Kind>(&self, class: Class<K>, array: *const Slot, capacity: usize, heap: &'static Heap) {
        if let Some(array) = NonNull::new(array.cast_mut())
            && array.as_ptr() != self.first_array(class)
        {
            let bytes = capacity * size_of::<Slot>();
            // SAFETY: allocated with that size; the magazine has another array now, and walkers need the door.
            heap.with_state(|state, _| unsafe { state.metadata.free_array(array.cast(), bytes) });
        }
    }

    /// Empties all magazines and makes them small again.
    pub(crate) fn shrink(&self) {
        let Some(heap) = self.heap.get() else { return };
        self.set.enter(heap, |inside| self.make_all_small(0, heap, inside));
    }

    /// Makes all magazines small again. Each keeps its newest blocks, at most `keep`, if the thread allocated from the
    /// class; a small magazine has room for them. Returns whether no block is left.
    #[cfg_attr(target_os = "linux", unsafe(link_section = ".text_pymalloc"))]
    pub(super) fn make_all_small(&self, keep: usize, heap: &'static Heap, inside: &mut Inside<'_>) -> bool {
        self.flush_depots(inside);
        self.hardened.flush(inside);
        let mut is_empty = true;
        for class in SizeClass::all() {
            is_empty &= self.make_class_small(class, keep, heap, inside);
        }
        if self.has_medium(inside.door()) {
            self.make_medium_small(heap, inside);
        }
        is_empty
    }

    /// The same for one class, whose depot is empty.
    #[inline(always)]
    pub(super) fn make_class_small<K: Kind>(
        &self,
        class: Class<K>,
        keep: usize,
        heap: &'static Heap,
        inside: &mut Inside<'_>,
    ) -> bool {
        let door = inside.door();
        self.shape(class).slow_calls.set(door, 0);
        let blocks = self.blocks(class, door).len();
        let kept = if self.shape(class).allocated.get(door) { blocks.min(keep) } else { 0 };
        self.flush(class, blocks - kept, inside);
        inside.check_away(class, self.blocks(class, door));
        self.shape(class).allocated.set(door, kept > 0);
        self.make_small(class, heap, door);
        self.free_chunks(class, heap, door);
        kept == 0
    }

    /// Moves a magazine of few blocks into the array inside the cache.
    pub(super) fn make_small<K: Kind>(&self, class: Class<K>, heap: &'static Heap, door: Door<'_>) {
        let old = self.array(class, door);
        let blocks = self.blocks(class, door);
        let small = self.first_array(class);
        if !ptr::eq(old.as_ptr(), small) {
            // SAFETY: another array, which has room for the blocks: the callers leave no more. A plain copy: see
            // `drop_oldest`.
            unsafe { ptr::copy_nonoverlapping(blocks.as_ptr(), small, blocks.len().min(MAGAZINE_SLOTS_MIN)) };
        }
        let (old_array, old_capacity, count) = (old.as_ptr(), old.len(), blocks.len());
        self.set_array(class, small, MAGAZINE_SLOTS_MIN, door);
        self.magazine(class).set_top(count, door);
        self.free_array(class, old_array, old_capacity, heap);
    }
}
