//! From an address to its arena: a radix tree of two levels over the address space.
//!
//! This is CPython's `arena_map`, simplified, because arenas are aligned to their size. The look-up of any address,
//! also of one in no arena, reads no memory except the tree's own.
//!
//! # Invariants
//! - *Known*: an arena enters the map before its first block is handed out, and leaves it after its last block and all
//!   its pools are back, before its memory is unmapped.
//! - Leaves are never unmapped, so look-ups need no lock.

use core::ptr::{self, NonNull};

use crate::base::config::ARENA_SHIFT;
#[cfg(feature = "hardened")]
use crate::base::config::CLASS_STEP_SHIFT;
use crate::heap::arena::{Arena, ArenaRef, PoolRef};
use crate::sync::{AtomicPtr, Ordering};

/// Bits of a user address: 47 on x86-64, 48 on aarch64 (more only on request, which this crate never makes). Miri gives
/// out addresses from the lowest on, and looks at each word of a structure at each reference to it. So it gets a small
/// tree.
const ADDRESS_BITS: u32 = if cfg!(miri) { 34 } else { 48 };
const LEAF_BITS: u32 = if cfg!(miri) { 7 } else { 13 };
const ROOT_BITS: u32 = ADDRESS_BITS - ARENA_SHIFT - LEAF_BITS;

/// Arenas of a leaf.
const LEAF_ARENAS: usize = 1 << LEAF_BITS;

/// The arenas of 16 GiB of addresses. Zeroed memory is a valid value: none.
#[repr(transparent)]
pub(crate) struct Leaf([AtomicPtr<Arena>; LEAF_ARENAS]);

impl Leaf {
    /// The arena at place `index`, modulo [`LEAF_ARENAS`], if any.
    #[inline(always)]
    fn arena(&self, index: usize) -> Option<ArenaRef> {
        // Acquire: pairs with the Release in `set`. A thread that got a block from another thread is ordered after that
        // anyway; the Acquire keeps impossible addresses harmless, too.
        let arena = NonNull::new(self.0[index & (LEAF_ARENAS - 1)].load(Ordering::Acquire))?;
        // SAFETY: `set` put it there.
        Some(unsafe { ArenaRef::new(arena) })
    }
}

/// The map; its root is 128 KiB of zeroed static memory, of which a program touches an OS page or two.
pub(crate) struct AddressMap {
    root: [AtomicPtr<Leaf>; 1 << ROOT_BITS],
}

impl AddressMap {
    pub(crate) const fn new() -> Self {
        Self { root: [const { AtomicPtr::new(ptr::null_mut()) }; 1 << ROOT_BITS] }
    }

    /// The arena that holds `address`, if any.
    #[inline(always)]
    pub(crate) fn arena_of(&self, address: usize) -> Option<ArenaRef> {
        self.arena(address >> ARENA_SHIFT)
    }

    /// The arena that holds address `step * CLASS_STEP_BYTES`, if any; there may be no such address.
    #[cfg(feature = "hardened")]
    #[inline(always)]
    pub(crate) fn arena_at_step(&self, step: usize) -> Option<ArenaRef> {
        self.arena(step >> (ARENA_SHIFT - CLASS_STEP_SHIFT))
    }

    /// The arena at address `number << ARENA_SHIFT`, if any.
    #[inline(always)]
    fn arena(&self, number: usize) -> Option<ArenaRef> {
        self.leaf(number)?.arena(number)
    }

    /// The leaf of the arena at address `number << ARENA_SHIFT`, if there is one.
    #[inline(always)]
    fn leaf(&self, number: usize) -> Option<&Leaf> {
        // Acquire: pairs with the Release in `add_leaf`; as in `Leaf::arena`.
        let leaf = self.root.get(number >> LEAF_BITS)?.load(Ordering::Acquire);
        // SAFETY: leaves are never unmapped.
        unsafe { leaf.as_ref() }
    }

    /// The pool that holds `address`, if an arena does.
    #[inline(always)]
    pub(crate) fn pool_of(&self, address: usize) -> Option<PoolRef> {
        Some(PoolRef::at_offset(self.arena_of(address)?, address))
    }

    /// Whether `address` needs a leaf before [`set`](Self::set); the caller holds the heap's lock.
    pub(crate) fn lacks_leaf(&self, address: usize) -> bool {
        // Relaxed (both): written under the lock that is held. A write rather than a load, because `add_leaf` comes
        // next, and the OS page would cost a second fault if it was read first.
        let root = self.root.get(address >> ARENA_SHIFT >> LEAF_BITS);
        let none = ptr::null_mut();
        root.is_some_and(|place| place.compare_exchange(none, none, Ordering::Relaxed, Ordering::Relaxed).is_ok())
    }

    /// Adds a zeroed leaf for `address`; the caller holds the heap's lock.
    pub(crate) fn add_leaf(&self, address: usize, leaf: NonNull<Leaf>) {
        if let Some(place) = self.root.get(address >> ARENA_SHIFT >> LEAF_BITS) {
            // Release: the leaf's zeroes happen before a look-up's Acquire.
            place.store(leaf.as_ptr(), Ordering::Release);
        }
    }

    /// Enters (or takes out) the arena at `address`; `false` if the map can't hold that address. The caller holds the
    /// heap's lock.
    pub(crate) fn set(&self, address: usize, arena: Option<ArenaRef>) -> bool {
        let number = address >> ARENA_SHIFT;
        let Some(leaf) = self.leaf(number) else { return false };
        // Release: the arena's metadata happens before a look-up's Acquire.
        let place = &leaf.0[number & (LEAF_ARENAS - 1)];
        place.store(arena.map_or(ptr::null_mut(), ArenaRef::as_ptr), Ordering::Release);
        true
    }
}

/// Look-ups of addresses that are mostly near each other. It remembers the leaf, which spares most look-ups the root.
///
/// # Invariants
/// `leaf` is the map's leaf whose first arena has number `first`; or `first` is [`NOWHERE`](Self::NOWHERE).
pub(crate) struct Near<'map> {
    map: &'map AddressMap,
    leaf: NonNull<Leaf>,
    first: usize,
}

impl<'map> Near<'map> {
    /// A number so far from any arena's that no leaf reaches there.
    const NOWHERE: usize = usize::MAX / 2;

    pub(crate) const fn new(map: &'map AddressMap) -> Self {
        Self { map, leaf: NonNull::dangling(), first: Self::NOWHERE }
    }

    /// The pool that holds `address`, if an arena does.
    #[inline(always)]
    pub(crate) fn pool_of(&mut self, address: usize) -> Option<PoolRef> {
        let index = (address >> ARENA_SHIFT).wrapping_sub(self.first);
        if index >= LEAF_ARENAS {
            return self.elsewhere(address);
        }
        // SAFETY: a leaf of the map's, because `first` is not `NOWHERE`; leaves are never unmapped.
        let leaf = unsafe { self.leaf.as_ref() };
        Some(PoolRef::at_offset(leaf.arena(index)?, address))
    }

    /// The same where another leaf is needed, which is then remembered.
    #[cold]
    #[inline(never)]
    #[cfg_attr(target_os = "linux", unsafe(link_section = ".text_pymalloc"))]
    fn elsewhere(&mut self, address: usize) -> Option<PoolRef> {
        let number = address >> ARENA_SHIFT;
        let leaf = self.map.leaf(number)?;
        self.leaf = NonNull::from(leaf);
        self.first = number & !(LEAF_ARENAS - 1);
        Some(PoolRef::at_offset(leaf.arena(number)?, address))
    }
}
