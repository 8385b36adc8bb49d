//! A magazine: an array of block addresses used as a stack. Its hot words and its cold data are separate types.
//!
//! The invariants are the cache's (*Owner*, *Bounds*, *Strangers*, *Poison*; see `cache`).

use core::mem::offset_of;
use core::ptr::{self, NonNull};

use super::count::Filled;
use crate::base::config::{MAGAZINE_BYTES_MAX, MAGAZINE_SLOTS_MAX, MAGAZINE_SLOTS_MIN, MEDIUM_MAGAZINE_BYTES_MAX};
use crate::base::kind::Kind;
use crate::base::size_class::{Class, SizeClass};
use crate::heap::door::{Door, DoorCell};
use crate::heap::pool::Slot;
use crate::sync::{AtomicPtr, Ordering};

/// The free blocks of one class that a thread has at hand.
#[repr(C, align(32))]
pub(crate) struct Magazine {
    /// One past the last slot in use.
    pub(super) top: AtomicPtr<Slot>,
    /// `alloc` takes the slow path when `top` is not above.
    pub(super) floor: AtomicPtr<Slot>,
    /// `free` takes the slow path when `top` is not below.
    pub(super) ceiling: AtomicPtr<Slot>,
    /// The first slot. In front of it is one that holds null for ever. Under the door.
    pub(super) base: AtomicPtr<Slot>,
}

// The layout that `docs/design/06-thread-cache.md` describes.
#[cfg(target_pointer_width = "64")]
const _: () = {
    assert!(offset_of!(Magazine, top) == 0 && offset_of!(Magazine, floor) == 8);
    assert!(offset_of!(Magazine, ceiling) == 16 && offset_of!(Magazine, base) == 24 && size_of::<Magazine>() == 32);
};

/// The cold data of a magazine.
pub(super) struct Shape {
    /// Slots of its array.
    pub(super) capacity: DoorCell<u16>,
    /// Slow calls so far, up to a few: magazines grow with use.
    pub(super) slow_calls: DoorCell<u8>,
    /// Whether the thread allocated from the class yet (*Strangers*).
    pub(super) allocated: DoorCell<bool>,
    /// Blocks below the floor; 0 when it is the base (see `age`).
    pub(super) spare: DoorCell<u16>,
    /// Blocks that the last visit left (see `age`).
    pub(super) seen: DoorCell<u16>,
    pub(super) filled: Filled,
}

/// Most slots of a magazine of `class`.
pub(crate) const fn capacity_max<K: Kind>(class: Class<K>) -> usize {
    let bytes_max = if K::IS_SMALL { MAGAZINE_BYTES_MAX } else { MEDIUM_MAGAZINE_BYTES_MAX };
    let fitting = bytes_max / class.block_bytes();
    let fitting = if fitting.is_power_of_two() { fitting } else { fitting.next_power_of_two() / 2 };
    if fitting > MAGAZINE_SLOTS_MAX {
        MAGAZINE_SLOTS_MAX
    } else if !K::IS_SMALL && fitting < MAGAZINE_SLOTS_MIN {
        // The slots of the array inside the cache.
        MAGAZINE_SLOTS_MIN
    } else {
        fitting
    }
}

const _: () = assert!(capacity_max(SizeClass::LARGEST) >= MAGAZINE_SLOTS_MIN);

/// The block added last; null if there is none. A plain read, which the compiler merges into the comparison.
///
/// # Safety
/// `top` belongs to a magazine of the calling thread, and the magazine has an array.
#[inline(always)]
pub(super) unsafe fn last(top: *mut Slot) -> *mut u8 {
    // SAFETY: the last slot in use, or the one in front of the first (*Bounds*). Only this thread writes the slots
    // meanwhile (*Owner*).
    unsafe { (*top.sub(1)).as_ptr().read() }
}

impl Magazine {
    /// No array: every call takes the slow path.
    pub(super) const fn stand_in() -> Self {
        Self {
            top: AtomicPtr::new(ptr::null_mut()),
            floor: AtomicPtr::new(ptr::null_mut()),
            ceiling: AtomicPtr::new(ptr::null_mut()),
            base: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// Takes the last block; `None` if there is none, or the magazine is poisoned. For the cache's thread only.
    #[inline(always)]
    pub(super) fn alloc(&self) -> Option<NonNull<u8>> {
        // Relaxed: this thread's own word (*Owner*).
        let top = self.top.load(Ordering::Relaxed);
        // Relaxed: a poisoner orders nothing by it; the slow path looks again under the door.
        if top <= self.floor.load(Ordering::Relaxed) {
            return None;
        }
        // SAFETY: `top` is above `base` (*Bounds*).
        let slot = unsafe { top.sub(1) };
        // SAFETY: a slot of the array. Relaxed: written by this thread, or under the door, which this thread has held
        // since.
        let block = unsafe { &*slot }.load(Ordering::Relaxed);
        // Release: a thread that reads `top` finds only free blocks below it. That thread is a walker, or, in a forked
        // child where this thread is gone, the next owner. Pairs with the Acquire in `blocks`.
        self.top.store(slot, Ordering::Release);
        // The caller needs no test for null.
        // SAFETY: slots below `top` hold blocks (*Bounds*).
        Some(unsafe { NonNull::new_unchecked(block) })
    }

    /// Adds a free block. Returns `false` if there is no room, if the magazine is poisoned, or if the last one added
    /// was the same block; the slow path tells these cases apart. For the cache's thread only.
    #[inline(always)]
    pub(super) fn put(&self, block: *mut u8) -> bool {
        // Relaxed: this thread's own word (*Owner*).
        let top = self.top.load(Ordering::Relaxed);
        // Relaxed: as in `alloc`.
        if top >= self.ceiling.load(Ordering::Relaxed) {
            return false;
        }
        // SAFETY: as `last` asks for.
        if unsafe { last(top) } == block {
            return false;
        }
        // SAFETY: `top` is below the array's end (*Bounds*). Relaxed: published by `top`.
        unsafe { &*top }.store(block, Ordering::Relaxed);
        // Release: the slot happens before; pairs with the Acquire in `blocks`.
        // SAFETY: at most one past the array's end.
        self.top.store(unsafe { top.add(1) }, Ordering::Release);
        true
    }

    /// Sets the number of blocks.
    pub(super) fn set_top(&self, blocks: usize, _door: Door<'_>) {
        // Relaxed: under the door. Release: as on the fast path.
        let base = self.base.load(Ordering::Relaxed);
        self.top.store(base.wrapping_add(blocks), Ordering::Release);
    }

    /// The slots that hold a block.
    ///
    /// Exact if the cache's thread does not run. Otherwise it is a snapshot: some of its blocks may be out already.
    pub(super) fn blocks<'door>(&self, _door: Door<'door>) -> &'door [Slot] {
        // Relaxed: under the door.
        let base = self.base.load(Ordering::Relaxed);
        // Acquire: pairs with the Release of the fast path.
        let top = self.top.load(Ordering::Acquire);
        if base.is_null() {
            return &[];
        }
        // SAFETY: both in the same array, `base <= top` (*Bounds*); slots are atomic.
        unsafe { core::slice::from_raw_parts(base, top.offset_from_unsigned(base)) }
    }
}

impl Shape {
    pub(super) const fn new() -> Self {
        Self {
            capacity: DoorCell::new(0),
            slow_calls: DoorCell::new(0),
            allocated: DoorCell::new(false),
            spare: DoorCell::new(0),
            seen: DoorCell::new(0),
            filled: Filled::new(),
        }
    }
}
