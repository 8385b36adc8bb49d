//! A pool set: the pools that belong to one thread, and all that is done to them.
//!
//! A set is immortal: once made, it is never unmapped. Its thread owns it while it lives; when the thread ends,
//! the set is *parked* with all its pools, and *adopted* whole by a thread that starts later. Until then, living
//! threads *steal* its partly free pools one by one when they would need new ones.
//!
//! # Call tree, by files
//! ```text
//! take.rs       take                blocks of a class, for a refill
//! hand_over.rs  ├─ collect          pools that other threads freed into
//!               ├─ steal            partly free pools of parked sets
//! pools.rs      ├─ open_empty       an empty pool of the set
//!               └─ open_new         a pool of the fullest arena, or of a new one
//! give.rs       give                blocks of a class, from a flush
//!               ├─ give_alone, give_neighbours   own pools: clear bits
//! pools.rs      │  └─ retire        the pool is empty: keep it, or return some
//!               └─ give_remote      pools of other sets: remote bits, count, inbox
//!                  └─ knock         collect for an owner that does not come
//! pools.rs      sweep               few blocks left: purge the free parts of partial pools
//! hand_over.rs  park, adopt         a thread ends, another takes over
//! ```
//!
//! # Invariants
//! - *Door*: the lists and all pools of a set are touched only by who holds its door.
//! - *Lists*: a pool that the set owns is in the list of its class if and only if it is partial, and in the list of
//!   empty pools if and only if it is empty; a full pool is in no list.
//! - *Tag*: the tag of every pool that the set owns is the set's address plus the number of the pool's class. It
//!   changes only while the pool has no block outside, or by who claimed it (see `remote`).

mod give;
mod hand_over;
mod pools;
mod take;

use core::cell::Cell;
use core::ptr::{self, NonNull};

use crate::arena::Tag;
use crate::config::{
    CACHE_LINE_BYTES, CLASS_COUNT, DEPOT_BYTES_MAX, DEPOTS_BUDGET_BYTES, POOL_BYTES, SWEEP_ARM_SHARE, SWEEP_MIN_BYTES,
};
use crate::heap::Heap;
use crate::lock::Lock;
use crate::pool::PoolList;
pub(crate) use crate::pool::Slot;
use crate::remote::Inbox;
use crate::size_class::SizeClass;
use crate::sync::{AtomicU32, AtomicU64, Ordering};
#[cfg(feature = "hardened")]
pub(crate) use give::misplaced;

/// The pools of one thread, or of a thread that ended.
#[repr(C, align(64))]
pub(crate) struct PoolSet {
    inbox: Inbox,
    /// The next older set of the heap; never changes once registered.
    pub(crate) next_registered: Cell<*const PoolSet>,
    /// The next parked set. Heap lock.
    pub(crate) next_parked: Cell<*const PoolSet>,
    /// 1 from parking to adoption, else 0; written under the door, read elsewhere as a hint.
    parked: AtomicU32,
    /// A hint for thieves: the classes of which a parked set has partial pools.
    stealable: AtomicU64,
    pub(crate) door: Lock<Pools>,
}

// SAFETY: `next_registered` is written once before the set is published; `next_parked` is under the heap's lock;
// the rest is atomic or under the door.
unsafe impl Sync for PoolSet {}

/// What the door of a set guards.
pub(crate) struct Pools {
    partial: [PoolList; CLASS_COUNT],
    empty: PoolList,
    empty_count: usize,
    /// Partial and full pools of each class.
    of_class: [u32; CLASS_COUNT],
    /// Pools that the set owns.
    owned_count: usize,
    /// Bytes of their blocks that are not home.
    used_bytes: usize,
    /// When fewer bytes than these are used, the free parts of partial pools are purged.
    sweep_below_bytes: usize,
}

// SAFETY: plain pointers to metadata that is never unmapped, touched under the door.
unsafe impl Send for Pools {}

/// The low bits of a tag.
const TAG_CLASS: usize = CACHE_LINE_BYTES - 1;

impl PoolSet {
    /// A set without pools, owned by a living thread.
    pub(crate) const fn new() -> Self {
        Self {
            inbox: Inbox::new(),
            next_registered: Cell::new(ptr::null()),
            next_parked: Cell::new(ptr::null()),
            parked: AtomicU32::new(0),
            stealable: AtomicU64::new(0),
            door: Lock::new(Pools {
                partial: [const { PoolList::new() }; CLASS_COUNT],
                empty: PoolList::new(),
                empty_count: 0,
                of_class: [0; CLASS_COUNT],
                owned_count: 0,
                used_bytes: 0,
                sweep_below_bytes: 0,
            }),
        }
    }

    /// The tag of this set's pools of `class`.
    #[inline]
    pub(crate) fn tag(&self, class: SizeClass) -> Tag {
        ptr::from_ref(self).cast::<u8>().cast_mut().wrapping_add(class.number())
    }

    /// Opens the door, waiting for it, and runs `body`.
    #[inline]
    #[cfg_attr(target_os = "linux", unsafe(link_section = ".text_pymalloc"))]
    pub(crate) fn enter<R>(&self, heap: &Heap, body: impl FnOnce(&mut Inside<'_>) -> R) -> R {
        self.door.lock().with(|pools| body(&mut Inside { heap, set: self, pools }))
    }

    /// Opens the door and runs `body`, unless somebody else is inside.
    #[cfg_attr(target_os = "linux", unsafe(link_section = ".text_pymalloc"))]
    pub(crate) fn try_enter<R>(&self, heap: &Heap, body: impl FnOnce(&mut Inside<'_>) -> R) -> Option<R> {
        let mut guard = self.door.try_lock()?;
        Some(guard.with(|pools| body(&mut Inside { heap, set: self, pools })))
    }

    /// Whether the set's thread ended and no other adopted it: sure under the door, else a hint.
    pub(crate) fn is_parked(&self) -> bool {
        // Relaxed: a hint, or ordered by the door.
        self.parked.load(Ordering::Relaxed) != 0
    }

    /// The inbox, for the self-check.
    pub(crate) fn inbox(&self) -> &Inbox {
        &self.inbox
    }
}

/// The class in a tag.
pub(crate) fn tag_class(tag: Tag) -> Option<SizeClass> {
    SizeClass::from_number(tag.addr() & TAG_CLASS)
}

/// The set in a tag.
pub(crate) fn tag_set(tag: Tag) -> Option<NonNull<PoolSet>> {
    NonNull::new(tag.map_addr(|address| address & !TAG_CLASS).cast())
}

impl Pools {
    pub(crate) fn partial(&self, class: SizeClass) -> &PoolList {
        &self.partial[class.number() & (CLASS_COUNT - 1)]
    }

    /// Partial and full pools of a class.
    pub(crate) fn of_class(&self, class: SizeClass) -> u32 {
        self.of_class[class.number() & (CLASS_COUNT - 1)]
    }

    fn of_class_mut(&mut self, class: SizeClass) -> &mut u32 {
        &mut self.of_class[class.number() & (CLASS_COUNT - 1)]
    }

    pub(crate) fn empty(&self) -> &PoolList {
        &self.empty
    }

    pub(crate) fn empty_count(&self) -> usize {
        self.empty_count
    }

    pub(crate) fn owned_count(&self) -> usize {
        self.owned_count
    }

    pub(crate) fn used_bytes(&self) -> usize {
        self.used_bytes
    }
}

/// A pool set whose door the thread holds.
pub(crate) struct Inside<'door> {
    heap: &'door Heap,
    set: &'door PoolSet,
    pools: &'door mut Pools,
}

impl Inside<'_> {
    /// Bytes of the set's blocks that are not home.
    pub(crate) fn used_bytes(&self) -> usize {
        self.pools.used_bytes
    }

    /// Bytes of blocks that the thread may keep in depots: its share of a budget, but nothing of a large heap of which
    /// little is left, where each of them may hold an OS page that a sweep could give back.
    pub(crate) fn depot_bytes_max(&self) -> usize {
        let owned_bytes = self.pools.owned_count * POOL_BYTES;
        if owned_bytes >= SWEEP_MIN_BYTES && self.pools.used_bytes < owned_bytes / SWEEP_ARM_SHARE {
            return 0;
        }
        (DEPOTS_BUDGET_BYTES / (self.heap.set_count() + 1)).min(DEPOT_BYTES_MAX)
    }
}
