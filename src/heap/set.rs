//! The data of a pool set: the pools that belong to one thread. The operations on them are in `pool_set`.
//!
//! A set is immortal: once made, it is never unmapped. Its thread owns it while it lives. When the thread ends, the set
//! is *parked* with all its pools, until a thread that starts later *adopts* it whole. In between it may become *bare*
//! (see `register`).
//!
//! # Invariants
//! - *Door*: the lists and all pools of a set are touched only by the thread that holds its door.
//! - *Lists*: a pool that the set owns is in the list of its class if and only if it is partial, and in the list of
//!   empty pools if and only if it is empty; a full pool is in no list.
//! - *Tag*: the tag of every pool that the set owns is the set's address plus the index of the pool's class. It changes
//!   only while no block of the pool is outside, or when a thread that claimed the pool changes it (see `remote`).
//! - *Cache*: if a set is parked and `cache_is_empty` is true, its cache has no block in magazines, depots or
//!   quarantine.

use core::cell::Cell;
use core::mem::offset_of;
use core::ptr::{self, NonNull};

use crate::base::config::{CLASS_COUNT, MEDIUM_CLASS_COUNT, TAG_BYTES};
use crate::base::kind::Kind;
use crate::base::size_class::{AnyClass, Class};
use crate::heap::arena::Tag;
use crate::heap::pool::PoolList;
use crate::protocols::lock::Lock;
use crate::protocols::remote::Inbox;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// The pools of one thread, or of a thread that ended.
#[repr(C, align(128))]
pub(crate) struct PoolSet {
    /// The inbox of small pools.
    pub(crate) inbox: Inbox,
    /// Its place in the register, plus 1; 0 while it is not there. Under the heap's lock.
    pub(crate) place: Cell<usize>,
    /// The next parked set. Under the heap's lock.
    pub(crate) next_parked: Cell<*const PoolSet>,
    /// Whether it is in the list of parked sets. Under the heap's lock.
    pub(crate) is_listed: Cell<bool>,
    /// Of a parked set: whether its cache has no block. Under the door.
    pub(crate) cache_is_empty: Cell<bool>,
    /// Whether a stop of the slow paths holds its door. Written by the thread that holds `stop`.
    pub(crate) is_stopped: AtomicU32,
    /// 1 from parking to adoption, otherwise 0. Written under the door, read elsewhere as a hint.
    pub(crate) parked: AtomicU32,
    /// A hint for thieves: the classes of which a parked set has partial pools.
    pub(crate) stealable: AtomicU64,
    pub(crate) door: Lock<Pools>,
    /// The inbox of medium pools. There are two, so that a collection knows the kind of the pools that it finds.
    pub(crate) medium_inbox: Inbox,
    /// `stealable` for the medium classes.
    pub(crate) medium_stealable: AtomicU64,
}

const _: () = assert!(align_of::<PoolSet>() == TAG_BYTES);

// SAFETY: each cell is under the lock that it names; the rest is atomic or under the door.
unsafe impl Sync for PoolSet {}

/// The data that the door of a set guards.
pub(crate) struct Pools {
    pub(crate) partial: [PoolList; CLASS_COUNT],
    pub(crate) empty: PoolList,
    pub(crate) empty_count: usize,
    /// Partial and full pools of each class.
    pub(crate) of_class: [u32; CLASS_COUNT],
    /// Pools that the set owns.
    pub(crate) owned_count: usize,
    /// Bytes of their blocks in use: with the program, in a cache, or freed by another thread and not yet collected.
    pub(crate) used_bytes: usize,
    /// If fewer bytes than these are used, the free parts of partial pools are purged.
    pub(crate) sweep_below_bytes: usize,
    pub(crate) medium: MediumPools,
}

/// The same for the medium classes.
pub(crate) struct MediumPools {
    partial: [PoolList; MEDIUM_CLASS_COUNT],
    of_class: [u32; MEDIUM_CLASS_COUNT],
    /// Partial and full pools.
    pub(crate) count: usize,
}

// SAFETY: plain pointers to metadata that is never unmapped, touched under the door.
unsafe impl Send for Pools {}

// The layout that `docs/design/06-thread-cache.md` describes.
#[cfg(target_pointer_width = "64")]
const _: () = {
    assert!(offset_of!(PoolSet, inbox) == 0 && offset_of!(PoolSet, place) == 16);
    assert!(offset_of!(PoolSet, next_parked) == 24 && offset_of!(PoolSet, is_listed) == 32);
    assert!(offset_of!(PoolSet, cache_is_empty) == 33 && offset_of!(PoolSet, is_stopped) == 36);
    assert!(offset_of!(PoolSet, parked) == 40 && offset_of!(PoolSet, stealable) == 48);
    assert!(offset_of!(PoolSet, door) == 56 && size_of::<Lock<Pools>>() == 2312);
    assert!(offset_of!(PoolSet, medium_inbox) == 2368 && offset_of!(PoolSet, medium_stealable) == 2384);
    assert!(size_of::<PoolSet>() == 2432);
};

/// The low bits of a tag.
const TAG_CLASS: usize = TAG_BYTES - 1;

/// The tag of a run's pools: it names no set and no class.
pub(crate) const RUN_TAG: Tag = ptr::without_provenance_mut(TAG_CLASS);

impl PoolSet {
    /// A set without pools, owned by a living thread.
    pub(crate) const fn new() -> Self {
        Self {
            inbox: Inbox::new(),
            place: Cell::new(0),
            next_parked: Cell::new(ptr::null()),
            is_listed: Cell::new(false),
            cache_is_empty: Cell::new(false),
            is_stopped: AtomicU32::new(0),
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
                medium: MediumPools {
                    partial: [const { PoolList::new() }; MEDIUM_CLASS_COUNT],
                    of_class: [0; MEDIUM_CLASS_COUNT],
                    count: 0,
                },
            }),
            medium_inbox: Inbox::new(),
            medium_stealable: AtomicU64::new(0),
        }
    }

    /// The tag of this set's pools of `class`.
    #[inline]
    pub(crate) fn tag<K: Kind>(&self, class: Class<K>) -> Tag {
        ptr::from_ref(self).cast::<u8>().cast_mut().wrapping_add(class.index())
    }

    /// Whether the set's thread ended and no other thread adopted the set: certain under the door, otherwise a hint.
    pub(crate) fn is_parked(&self) -> bool {
        // Relaxed: a hint, or ordered by the door.
        self.parked.load(Ordering::Relaxed) != 0
    }

    /// Whether it is bare: parked, and not in the register (see `register`). Under the heap's lock.
    pub(crate) fn is_bare(&self) -> bool {
        self.is_listed.get() && self.place.get() == 0
    }

    /// The inbox of its pools of a kind.
    #[inline(always)]
    pub(crate) const fn inbox<K: Kind>(&self) -> &Inbox {
        if K::IS_SMALL { &self.inbox } else { &self.medium_inbox }
    }

    /// The hint for thieves of pools of a kind.
    #[inline(always)]
    pub(crate) const fn stealable<K: Kind>(&self) -> &AtomicU64 {
        if K::IS_SMALL { &self.stealable } else { &self.medium_stealable }
    }

    /// Whether no other thread has freed into its pools since the last collection.
    pub(crate) fn nothing_arrived(&self) -> bool {
        self.inbox.is_empty() && self.medium_inbox.is_empty()
    }
}

/// The class in a tag.
pub(crate) fn tag_class<K: Kind>(tag: Tag) -> Option<Class<K>> {
    Class::from_index(tag.addr() & TAG_CLASS)
}

/// The same for either kind.
pub(crate) fn tag_any_class(tag: Tag) -> Option<AnyClass> {
    let index = tag.addr() & TAG_CLASS;
    (!tag.is_null() && index < CLASS_COUNT + MEDIUM_CLASS_COUNT).then(|| AnyClass::from_index(index))
}

/// The set in a tag.
pub(crate) fn tag_set(tag: Tag) -> Option<NonNull<PoolSet>> {
    NonNull::new(tag.map_addr(|address| address & !TAG_CLASS).cast())
}

impl Pools {
    #[inline(always)]
    pub(crate) fn partial<K: Kind>(&self, class: Class<K>) -> &PoolList {
        if K::IS_SMALL {
            &self.partial[class.number() & (CLASS_COUNT - 1)]
        } else {
            &self.medium.partial[class.number().min(MEDIUM_CLASS_COUNT - 1)]
        }
    }

    /// Partial and full pools of a class.
    pub(crate) fn of_class<K: Kind>(&self, class: Class<K>) -> u32 {
        if K::IS_SMALL {
            self.of_class[class.number() & (CLASS_COUNT - 1)]
        } else {
            self.medium.of_class[class.number().min(MEDIUM_CLASS_COUNT - 1)]
        }
    }

    /// Counts one more pool of the class.
    #[inline(always)]
    pub(crate) fn add_of_class<K: Kind>(&mut self, class: Class<K>) {
        if K::IS_SMALL {
            self.of_class[class.number() & (CLASS_COUNT - 1)] += 1;
        } else {
            self.medium.of_class[class.number().min(MEDIUM_CLASS_COUNT - 1)] += 1;
            self.medium.count += 1;
        }
    }

    /// Counts one pool fewer of the class.
    #[inline(always)]
    pub(crate) fn remove_of_class<K: Kind>(&mut self, class: Class<K>) {
        if K::IS_SMALL {
            self.of_class[class.number() & (CLASS_COUNT - 1)] -= 1;
        } else {
            self.medium.of_class[class.number().min(MEDIUM_CLASS_COUNT - 1)] -= 1;
            self.medium.count -= 1;
        }
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
