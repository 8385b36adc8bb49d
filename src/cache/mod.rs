//! The thread cache: one magazine of free blocks per class, and the fast path.
//!
//! A magazine is an array of block addresses used as a stack. `alloc` pops, `free` pushes; neither reads or writes
//! the block, its pool or any lock. Magazines are Bonwick's (Bonwick and Adams, USENIX 2001), with a thread in
//! place of a CPU; behind each is a depot (see `depot`).
//!
//! # Invariants
//! - *Owner*: only the cache's thread writes `top`. If that thread is gone, a thread that recovers the cache writes it,
//!   under the door of the cache's set.
//! - *Bounds*: `base <= top <= base + capacity`. Slots from `base` up to `top` hold free blocks of the class, whose
//!   pools count them as used. The slot in front of `base` holds null for ever.
//! - *Strangers*: until a thread has allocated from a class (since it got its cache, or shrank it), `floor` is the
//!   highest address. So the first allocation takes the slow path, which sends the blocks in the magazine home; as a
//!   rule other threads allocated them. Otherwise threads that free each other's blocks and then allocate would use
//!   neighbouring blocks, and share cache lines from then on.
//! - *Poison*: while a magazine is poisoned, `floor` is the highest address and `ceiling` is null, so every call takes
//!   the slow path. Otherwise `ceiling` is `base + capacity`, and `floor`, except for *Strangers*, is `base` or above
//!   it (see `age`). Both are written under the door only, and the fast path only reads them. So any thread may poison
//!   any cache at any time, and no owner undoes it by accident. A zeroed magazine is poisoned, too.
//! - *Warm*: the cache of an ended thread may hold blocks in its small magazines, for its next thread. Until it has
//!   one, any thread that holds the door may empty them.

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

/// A thread's magazines and pools. A cache is made once and never unmapped; it is handed on when its thread ends.
#[repr(C, align(64))]
pub(crate) struct ThreadCache {
    /// The first field, so that a registered set and its cache have the same address.
    pub(crate) set: PoolSet,
    /// `None` in the stand-ins for a cache (see `slot`).
    heap: Cell<Option<&'static Heap>>,
    /// Calls on the slow path so far.
    slow_calls: DoorCell<u64>,
    /// Visits to classes so far (see `age`).
    visits: DoorCell<u64>,
    /// Bytes of large requests since they last led to visits. Only its thread writes it; in the stand-ins, any thread
    /// does.
    large_bytes: AtomicUsize,
    /// What the C library's `malloc` does for the thread's large requests. Only its thread calls it.
    malloc: os::WatchMalloc,
    /// Blocks in the depots.
    depot_blocks: DoorCell<usize>,
    /// The kernel's number of its thread. Under the door.
    thread: Cell<u32>,
    /// Why the magazines are poisoned, as bits: [`POISON_ALL`], [`POISON_OWN`].
    poison: DoorCell<u8>,
    shapes: [Shape; CLASS_COUNT],
    depots: [Depot; CLASS_COUNT],
    allocations: Allocations,
    /// The state at the last tick of a purge thread.
    seen: Seen,
    /// The first arrays of the magazines, each behind a slot that holds null.
    first_slots: [[Slot; 1 + MAGAZINE_SLOTS_MIN]; CLASS_COUNT],
    /// What the feature `hardened` adds.
    pub(crate) hardened: PerThread,
    /// One per class, by the class's index: small classes, then medium ones. From the medium ones on, nothing is touched
    /// without the allocator `Medium`.
    magazines: [Magazine; MAGAZINES],
    /// The rest for medium classes.
    medium: PerMediumClass,
}

// The sizes that `docs/design/` names.
#[cfg(all(target_os = "linux", target_env = "gnu", not(any(feature = "__raw", feature = "hardened"))))]
const _: () = assert!(size_of::<ThreadCache>() == 17_920 && size_of::<Shape>() == 8 && size_of::<Depot>() == 24);

// SAFETY: cells are written before the cache is published, or under the door; the rest is atomic.
unsafe impl Sync for ThreadCache {}

/// All caches are poisoned: an observer wants to see every call of the program.
const POISON_ALL: u8 = 1;
/// The cache's thread wants to see its own calls.
const POISON_OWN: u8 = 2;

/// Whether medium magazines are poisoned with the small ones: where blocks are freed by their addresses, the fast path
/// frees both kinds before any observer is told.
const MEDIUM_IS_POISONED: bool = cfg!(feature = "__raw");

/// Magazines in front of the smallest class's. With the feature `__raw` there is one, for blocks whose class is not
/// known (see `direct`). It stays zero, and so poisoned.
const NO_CLASS: usize = cfg!(feature = "__raw") as usize;
const MAGAZINES: usize = NO_CLASS + CLASS_COUNT + MEDIUM_CLASS_COUNT;

// --- The fast path -------------------------------------------------------------------------------------------

impl ThreadCache {
    /// A free block of `class`, or null when there is no memory. The slow path tells observers of `request`.
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
    /// `block` is a block of `class` in the caller's hands (as far as possible, this is checked when it returns to its
    /// pool).
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

    /// Moves the free blocks of `class` in `slots` into its magazine, in the given `order`, and leaves null in the
    /// slots. Either all slots hold a block, or none does.
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
        // Release: after the nulls, so that in a forked child no block is found twice; also as in `put`.
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
    /// All zero: every magazine is poisoned, and there is no heap.
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
            malloc: os::WatchMalloc::new(),
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
            // SAFETY: a registered set is the first field of a cache, except the spare set, which is never parked.
            let cache = unsafe { set.cast::<Self>().as_ref() };
            cache.set.enter(heap, |inside| {
                inside.adopt();
                let door = inside.door();
                cache.hardened.attach(door);
                cache.poison.set(door, 0);
                cache.thread.set(os::thread_id());
                // The set may lack its poison: a fork may have parked it between its registration and the call below.
                cache.set_poison(heap.poisons(), door);
            });
            // In a forked child, a thread of the parent may have left it as it was.
            cache.malloc.end();
            return Some(cache);
        }
        let cache = heap.make_set::<Self>(|place| {
            // SAFETY: zeroed memory, ours alone; a zeroed cache is valid.
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
            // Poisoning may have begun before the cache was in the register. From now on it is found there.
            cache.set_poison(heap.poisons(), inside.door());
        });
        Some(cache)
    }

    /// Gives up the cache: its blocks go home, and its set is parked for other threads. If few parked sets have
    /// anything left (are not bare), some blocks stay in the magazines, and their pools in the set, for a thread that
    /// starts soon (*Warm*).
    #[cfg_attr(target_os = "linux", unsafe(link_section = ".text_pymalloc"))]
    pub(crate) fn release(&'static self) {
        let few = self.heap.get().is_some_and(|heap| heap.parked_count() < WARM_CACHES_MAX + heap.bare_count());
        self.release_with(if few { WARM_BLOCKS } else { 0 });
    }

    /// The same, but at most `keep` blocks stay in each magazine.
    pub(super) fn release_with(&'static self, keep: usize) {
        if let Some(heap) = self.heap.get() {
            // The pointer is valid for the whole cache, not only for its field: the thread that adopts the set gets the
            // cache by it.
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

    /// The kernel's number of the thread that has the cache, or had it last. Under the door.
    pub(crate) fn thread(&self) -> u32 {
        self.thread.get()
    }

    /// Notes the calling thread, which has another number after a fork. Under the door.
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

    /// Poisons every cache of `heap`, also those made later, or lifts the poison. While it lasts, every call of every
    /// thread takes the slow path. Any thread may call this at any time, but not two at once: their effects on the
    /// caches could mix.
    ///
    /// Tracing begins and ends with this. While it is off, it costs nothing.
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

    /// Sets or lifts the poison of this cache alone, independently of the poison of all caches.
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

    /// Visits to small classes so far.
    #[cfg(test)]
    pub(crate) fn visits_made(&self, door: Door<'_>) -> u64 {
        self.visits.get(door)
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
    /// Exact if the cache's thread does not run. Otherwise it is a snapshot: some of its blocks may be out already.
    pub(crate) fn blocks<'door, K: Kind>(&self, class: Class<K>, door: Door<'door>) -> &'door [Slot] {
        self.magazine(class).blocks(door)
    }
}
