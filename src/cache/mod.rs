//! The thread cache: a magazine of free blocks a class, and the fast path.
//!
//! A magazine is an array of block addresses used as a stack. `alloc` pops, `free` pushes; neither reads or writes
//! the block, its pool or any lock. Magazines are Bonwick's (Bonwick and Adams, USENIX 2001), with a thread in
//! place of a CPU; behind each is a depot (see `depot`).
//!
//! # Invariants
//! - *Owner*: `top` is written by the cache's thread only, and, under the door of its set, by who recovers the cache
//!   of a thread that is gone.
//! - *Bounds*: `base <= top <= base + capacity`. Slots from `base` up to `top` hold free blocks of the class, whose
//!   pools count them as used. The slot in front of `base` holds null for ever.
//! - *Strangers*: until a thread has allocated from a class (since it got its cache, or shrank it), `floor` is the
//!   highest address: the first allocation takes the slow path, and sends home what is in the magazine, as a rule
//!   other threads' blocks. Else threads that each free a neighbour of the others' blocks, and allocate, would share a
//!   cache line from then on.
//! - *Poison*: else `floor` is `base`, or above it (see `age`), and `ceiling` is `base + capacity`; or the magazine is poisoned: `floor` is the
//!   highest address and `ceiling` is null, and every call takes the slow path. Both are written under the door only,
//!   the fast path only reads them: so any thread may poison any cache at any time, and no owner undoes it by accident.
//!   A zeroed magazine is poisoned, too.
//! - *Warm*: the cache of an ended thread may hold blocks in its small magazines, for its next thread. Until it has
//!   one, who holds the door may empty them.

mod abandoned;
mod age;
mod count;
mod depot;
#[cfg(feature = "__raw")]
mod direct;
pub(crate) mod exit;
pub(crate) mod fork;
pub(crate) mod hardened;
mod last_resort;
mod magazine;
mod medium;
mod slot;
mod slow;
mod tidy;
mod tls;

use core::cell::Cell;
use core::ptr::{self, NonNull};

use crate::base::config::{CLASS_COUNT, MAGAZINE_SLOTS_MIN, MEDIUM_CLASS_COUNT, WARM_BLOCKS, WARM_CACHES_MAX};
use crate::base::kind::Kind;
use crate::base::size_class::{Class, MediumClass, SizeClass};
use crate::cache::hardened::PerThread;
use crate::heap::Heap;
use crate::heap::door::{Door, DoorCell};
use crate::heap::pool::Slot;
use crate::heap::set::PoolSet;
use crate::observe::Request;
use crate::os;
use crate::sync::{AtomicPtr, AtomicUsize, Ordering};
use count::Allocations;
use depot::Depot;
use magazine::{Magazine, Shape};
use medium::PerMediumClass;
pub(crate) use slow::Slow;
use tidy::Seen;

pub(crate) use abandoned::is_abandoned;
#[cfg(feature = "__raw")]
pub(crate) use count::allocations_min;
#[cfg(feature = "__raw")]
pub(crate) use direct::{MagazineOffset, alloc_at, free_at_or};
pub(crate) use last_resort::{alloc_run, flush_caches};
pub(crate) use magazine::capacity_max;
#[cfg(feature = "__raw")]
pub(crate) use slot::go_without_caches;
#[cfg(test)]
pub(crate) use slot::take_spare;
pub(crate) use slot::{GLOBAL, current, with_thread};

/// A thread's magazines and pools. Made once, never unmapped, handed on when its thread ends.
#[repr(C, align(64))]
pub(crate) struct ThreadCache {
    /// First, so that a registered set's address is its cache's.
    pub(crate) set: PoolSet,
    /// `None` in the stand-ins for a cache (see `slot`).
    heap: Cell<Option<&'static Heap>>,
    /// Calls on the slow path so far.
    slow_calls: DoorCell<u64>,
    /// Visits to classes so far (see `age`).
    visits: DoorCell<u64>,
    /// Bytes of large requests since they last led to a visit. Only its thread writes; any thread in the stand-ins.
    large_bytes: AtomicUsize,
    /// Blocks in the depots.
    depot_blocks: DoorCell<usize>,
    /// The kernel's number of its thread. Door.
    thread: Cell<u32>,
    /// Why the magazines are poisoned, as bits: [`POISON_ALL`], [`POISON_OWN`].
    poison: DoorCell<u8>,
    /// By the classes' indices: small ones, then medium ones.
    magazines: [Magazine; MAGAZINES],
    shapes: [Shape; CLASS_COUNT],
    depots: [Depot; CLASS_COUNT],
    allocations: Allocations,
    /// What a purge thread saw last.
    seen: Seen,
    /// The first arrays of the magazines, each behind a slot that holds null.
    first_slots: [[Slot; 1 + MAGAZINE_SLOTS_MIN]; CLASS_COUNT],
    /// What the feature `hardened` adds.
    pub(crate) hardened: PerThread,
    /// What is not touched without the allocator `Medium`.
    medium: PerMediumClass,
}

// What `docs/design/` says of it.
#[cfg(all(target_pointer_width = "64", not(any(feature = "__raw", feature = "hardened"))))]
const _: () = assert!(size_of::<ThreadCache>() == 17_792 && size_of::<Shape>() == 8 && size_of::<Depot>() == 24);

// SAFETY: cells are written before the cache is published, or under the door; the rest is atomic.
unsafe impl Sync for ThreadCache {}

/// All caches are poisoned: somebody wants to see every call of the program.
const POISON_ALL: u8 = 1;
/// The cache's thread wants to see its own calls.
const POISON_OWN: u8 = 2;

/// Whether medium magazines are poisoned with the small ones: where blocks are freed by their addresses, the fast path
/// frees both kinds, before anybody is told.
const MEDIUM_IS_POISONED: bool = cfg!(feature = "__raw");

/// Magazines before that of the smallest class. With the feature `__raw` there is one, zero for ever, and so poisoned: of
/// the blocks whose class is not known (see `direct`).
const NO_CLASS: usize = cfg!(feature = "__raw") as usize;
const MAGAZINES: usize = NO_CLASS + CLASS_COUNT + MEDIUM_CLASS_COUNT;

// --- The fast path -------------------------------------------------------------------------------------------

impl ThreadCache {
    /// A free block of `class`, or null when there is no memory. The slow path tells who looks on of `request`.
    #[inline(always)]
    pub(crate) fn alloc<K: Slow>(&self, class: Class<K>, request: Request) -> *mut u8 {
        self.alloc_or(class, || K::alloc_slow(self, class, request))
    }

    /// A block of `class` from its magazine, or what `slow` returns if there is none.
    #[inline(always)]
    pub(crate) fn alloc_or<K: Slow>(&self, class: Class<K>, slow: impl FnOnce() -> *mut u8) -> *mut u8 {
        match self.magazine(class).alloc() {
            Some(block) => hardened::handed_out(self, class, block.as_ptr()),
            None => slow(),
        }
    }

    /// Takes back a block of `class`.
    ///
    /// # Safety
    /// `block` is a block of `class` in the caller's hands (what can be checked is, when it returns to its pool).
    #[inline(always)]
    pub(crate) unsafe fn free<K: Slow>(&self, class: Class<K>, block: *mut u8) {
        if let Some(block) = hardened::freed(self, class, block) {
            self.put(class, block);
        }
    }

    /// Puts a free block of `class` into its magazine.
    #[inline(always)]
    pub(crate) fn put<K: Slow>(&self, class: Class<K>, block: *mut u8) {
        if !self.magazine(class).put(block) {
            K::free_slow(self, class, block);
        }
    }

    /// Puts the free blocks of `class` that `slots` hold (all, or none does) into its magazine, those first that come
    /// first in `order`, and leaves null.
    #[cfg(feature = "hardened")]
    #[inline(always)]
    pub(crate) fn put_all<const COUNT: usize>(
        &self,
        class: SizeClass,
        slots: &[Slot; COUNT],
        order: impl Iterator<Item = usize>,
    ) {
        let magazine = self.magazine(class);
        // Relaxed (all but the last store): as in `put`; the slots are this thread's own.
        let top = magazine.top.load(Ordering::Relaxed);
        let room = magazine.ceiling.load(Ordering::Relaxed).addr().saturating_sub(top.addr());
        let take = |number: usize| slots[number % COUNT].load(Ordering::Relaxed);
        if take(0).is_null() {
            return;
        }
        if room < size_of_val(slots) {
            return order.for_each(|number| {
                let block = take(number);
                slots[number % COUNT].store(ptr::null_mut(), Ordering::Relaxed);
                if !block.is_null() {
                    self.put(class, block);
                }
            });
        }
        for (index, number) in order.enumerate() {
            // SAFETY: there is room for all (*Bounds*).
            unsafe { &*top.add(index) }.store(take(number), Ordering::Relaxed);
        }
        slots.iter().for_each(|slot| slot.store(ptr::null_mut(), Ordering::Relaxed));
        // Release: after the nulls, so that who looks at a forked child finds no block twice; as in `put`.
        // SAFETY: at most one past the array's end.
        magazine.top.store(unsafe { top.add(COUNT) }, Ordering::Release);
    }

    #[inline(always)]
    fn magazine<K: Kind>(&self, class: Class<K>) -> &Magazine {
        // SAFETY: a class's index is below the number of classes of both kinds.
        unsafe { self.magazines.get_unchecked(NO_CLASS + class.index()) }
    }
}

// --- What the slow path and the walkers see --------------------------------------------------------------------

impl ThreadCache {
    /// All zero: every magazine poisoned, no heap.
    const fn stand_in() -> Self {
        Self {
            set: PoolSet::new(),
            magazines: [const { Magazine::stand_in() }; MAGAZINES],
            shapes: [const { Shape::new() }; CLASS_COUNT],
            depots: [const { Depot::new() }; CLASS_COUNT],
            depot_blocks: DoorCell::new(0),
            heap: Cell::new(None),
            poison: DoorCell::new(0),
            thread: Cell::new(0),
            slow_calls: DoorCell::new(0),
            visits: DoorCell::new(0),
            large_bytes: AtomicUsize::new(0),
            allocations: Allocations::new(),
            seen: Seen::new(),
            first_slots: [const { [const { AtomicPtr::new(ptr::null_mut()) }; 1 + MAGAZINE_SLOTS_MIN] }; CLASS_COUNT],
            hardened: PerThread::new(),
            medium: PerMediumClass::new(),
        }
    }

    /// A cache on `heap` for the calling thread: one that an ended thread left, or a new one.
    #[cfg_attr(target_os = "linux", unsafe(link_section = ".text_pymalloc"))]
    pub(crate) fn acquire(heap: &'static Heap) -> Option<&'static Self> {
        if let Some(set) = heap.unpark() {
            // SAFETY: registered sets but the spare one, which is never parked, are the first field of a cache.
            let cache = unsafe { set.cast::<Self>().as_ref() };
            cache.set.enter(heap, |inside| {
                inside.adopt();
                let door = inside.door();
                cache.hardened.attach(door);
                cache.poison.set(door, 0);
                cache.thread.set(os::thread_id());
                // A fork may have parked the set between its registration and the question below.
                cache.set_poison(heap.poisons(), door);
            });
            return Some(cache);
        }
        let cache = heap.make_set::<Self>(|place| {
            // SAFETY: zeroed memory, ours alone, in which a zeroed cache is valid.
            let cache = unsafe { place.as_ref() };
            cache.heap.set(Some(heap));
            cache.thread.set(os::thread_id());
            // SAFETY: as above.
            let door = unsafe { Door::held() };
            for class in SizeClass::all() {
                cache.set_array(class, cache.first_array(class), MAGAZINE_SLOTS_MIN, door);
            }
            place.cast()
        })?;
        // SAFETY: caches are never unmapped.
        let cache = unsafe { cache.as_ref() };
        cache.set.enter(heap, |inside| {
            cache.hardened.attach(inside.door());
            // Poisoning may have begun before the cache was in the register, where it is found from now on.
            cache.set_poison(heap.poisons(), inside.door());
        });
        Some(cache)
    }

    /// Gives the cache up: its blocks go home, its set is parked for others. If few sets are parked that are not bare,
    /// some blocks stay in its magazines, and its pools open, for a thread that starts soon (*Warm*).
    #[cfg_attr(target_os = "linux", unsafe(link_section = ".text_pymalloc"))]
    pub(crate) fn release(&'static self) {
        let few = self.heap.get().is_some_and(|heap| heap.parked_count() < WARM_CACHES_MAX + heap.bare_count());
        self.release_with(if few { WARM_BLOCKS } else { 0 });
    }

    /// The same; `keep` blocks at most stay in each magazine.
    pub(super) fn release_with(&'static self, keep: usize) {
        if let Some(heap) = self.heap.get() {
            // Of the whole cache, not of its field: who adopts the set gets the cache by it.
            PoolSet::park_with(NonNull::from(self).cast(), heap, |inside| {
                if self.make_all_small(keep, heap, inside) {
                    self.say_empty(inside.door());
                }
            });
        }
    }

    /// The cache of a registered set; the spare set has none.
    ///
    /// # Safety
    /// `set` is in `heap`'s register.
    pub(crate) unsafe fn of_set(heap: &Heap, set: NonNull<PoolSet>) -> Option<NonNull<Self>> {
        (!ptr::eq(set.as_ptr(), &raw const heap.spare)).then_some(set.cast())
    }

    /// The kernel's number of the thread that has the cache, or had it last. Door.
    pub(crate) fn thread(&self) -> u32 {
        self.thread.get()
    }

    /// Notes the calling thread, which has another number after a fork. Door.
    pub(crate) fn renew_thread(&self) {
        self.thread.set(os::thread_id());
    }

    /// The first slot of the magazine's array inside the cache.
    fn first_array<K: Kind>(&self, class: Class<K>) -> *mut Slot {
        let slots = if K::IS_SMALL {
            &raw const self.first_slots[class.number() & (CLASS_COUNT - 1)]
        } else {
            &raw const self.medium.first_slots[class.number().min(MEDIUM_CLASS_COUNT - 1)]
        };
        slots.cast::<Slot>().cast_mut().wrapping_add(1)
    }

    /// Gives `class` an empty magazine of `capacity` slots at `base`.
    fn set_array<K: Kind>(&self, class: Class<K>, base: *mut Slot, capacity: usize, door: Door<'_>) {
        let magazine = self.magazine(class);
        // Relaxed (all three): under the door.
        magazine.base.store(base, Ordering::Relaxed);
        magazine.top.store(base, Ordering::Relaxed);
        self.shape(class).capacity.set(door, capacity as u16);
        self.shape(class).spare.set(door, 0);
        self.set_bounds(class, door);
    }

    /// Poisons every cache of `heap`, now and to come, or lifts that: while poisoned, every call of every thread
    /// takes the slow path. Any thread may call it at any time, but not two at once: the one that ends last would not
    /// undo all that the other did.
    ///
    /// What tracing begins and ends with; it costs nothing while it is off.
    #[cfg_attr(not(any(test, feature = "trace")), expect(dead_code, reason = "the tracer uses it"))]
    pub(crate) fn poison_all(heap: &'static Heap, poisoned: bool) {
        heap.set_poisons(poisoned);
        for set in heap.sets() {
            // SAFETY: a registered set.
            if let Some(cache) = unsafe { Self::of_set(heap, set) } {
                // SAFETY: caches are never unmapped.
                let cache = unsafe { cache.as_ref() };
                cache.set.visit(heap, |inside| cache.set_poison(poisoned, inside.door()));
            }
        }
    }

    /// Sets or lifts the poison of all magazines.
    pub(crate) fn set_poison(&self, poisoned: bool, door: Door<'_>) {
        self.set_reason(POISON_ALL, poisoned, door);
    }

    /// Sets or lifts the poison of this cache alone, whatever that of all is.
    pub(crate) fn set_own_poison(&self, poisoned: bool, door: Door<'_>) {
        self.set_reason(POISON_OWN, poisoned, door);
    }

    fn set_reason(&self, reason: u8, on: bool, door: Door<'_>) {
        let others = self.poison.get(door) & !reason;
        self.poison.set(door, if on { others | reason } else { others });
        for class in SizeClass::all() {
            self.set_bounds(class, door);
        }
        if MEDIUM_IS_POISONED {
            for class in MediumClass::all() {
                self.set_bounds(class, door);
            }
        }
        self.hardened.set_quarantine(!self.is_poisoned(door), door);
    }

    /// Whether the magazines are poisoned, for whatever reason.
    fn is_poisoned(&self, door: Door<'_>) -> bool {
        self.poison.get(door) != 0
    }

    fn set_bounds<K: Kind>(&self, class: Class<K>, door: Door<'_>) {
        let magazine = self.magazine(class);
        // Relaxed (all): under the door; the fast path may see either value (*Poison*).
        let base = magazine.base.load(Ordering::Relaxed);
        let shape = self.shape(class);
        let highest = ptr::without_provenance_mut(usize::MAX);
        let end = base.wrapping_add(usize::from(shape.capacity.get(door)));
        let (floor, ceiling) =
            match ((K::IS_SMALL || MEDIUM_IS_POISONED) && self.is_poisoned(door), shape.allocated.get(door)) {
                (true, _) => (highest, ptr::null_mut()),
                (false, false) => (highest, end),
                (false, true) => (base.wrapping_add(usize::from(shape.spare.get(door))), end),
            };
        magazine.floor.store(floor, Ordering::Relaxed);
        magazine.ceiling.store(ceiling, Ordering::Relaxed);
    }

    fn shape<K: Kind>(&self, class: Class<K>) -> &Shape {
        if K::IS_SMALL {
            &self.shapes[class.number() & (CLASS_COUNT - 1)]
        } else {
            &self.medium.shapes[class.number().min(MEDIUM_CLASS_COUNT - 1)]
        }
    }

    /// Its heap; `None` in the stand-ins.
    #[cfg(feature = "hardened")]
    pub(crate) fn heap(&self) -> Option<&'static Heap> {
        self.heap.get()
    }

    /// Slots of the magazine's array.
    pub(crate) fn slots<K: Kind>(&self, class: Class<K>, door: Door<'_>) -> usize {
        usize::from(self.shape(class).capacity.get(door))
    }

    /// Calls that took the slow path.
    #[cfg(test)]
    pub(crate) fn slow_calls(&self, door: Door<'_>) -> u64 {
        self.slow_calls.get(door)
    }

    /// All free blocks of `class`: magazine, depot chunk by chunk, quarantine.
    ///
    /// As exact as [`blocks`](Self::blocks).
    pub(crate) fn all_blocks<K: Kind>(&self, class: Class<K>, door: Door<'_>) -> impl Iterator<Item = *mut u8> {
        let slots = core::iter::once(self.blocks(class, door)).chain(self.stowed(class, door)).flatten();
        // Relaxed: under the door, or a snapshot.
        slots.map(|slot| slot.load(Ordering::Relaxed)).chain(self.hardened.held(class, door))
    }

    /// The slots of the magazine that hold a block.
    ///
    /// Exact if the cache's thread does not run; else a snapshot, some of whose blocks may be out already.
    pub(crate) fn blocks<'door, K: Kind>(&self, class: Class<K>, door: Door<'door>) -> &'door [Slot] {
        self.magazine(class).blocks(door)
    }
}
