//! The fast path of the preload library: a table's entry says where the magazine is, so the class need not be known.
//!
//! A size's entry is in a table, an address's entry in the class map. An address of no class leads to a magazine of no
//! class, which is always poisoned. So `free` has no test for it, and the slow path finds out.

use core::mem::offset_of;
use core::ptr::NonNull;

use super::magazine::last;
use super::{Magazine, ThreadCache, tls};
use crate::base::size_class::SizeClass;
use crate::sync::Ordering;

/// The place of a magazine in a thread cache: its distance in bytes from the magazine of no class.
#[derive(Clone, Copy)]
pub(crate) struct MagazineOffset(u16);

impl MagazineOffset {
    pub(crate) const fn of_class(class: SizeClass) -> Self {
        Self(((class.index() + 1) * size_of::<Magazine>()) as u16)
    }

    /// The offset for an entry of the class map.
    ///
    /// # Safety
    /// `entry` is 0, for no class, or a class's index plus 1: medium magazines follow the small ones.
    #[inline(always)]
    pub(crate) const unsafe fn of_entry(entry: usize) -> Self {
        Self((entry * size_of::<Magazine>()) as u16)
    }
}

/// The calling thread's magazine.
#[inline(always)]
fn magazine_at(offset: MagazineOffset) -> &'static Magazine {
    let place = tls::get_plus(usize::from(offset.0));
    // SAFETY: the place of one of the cache's magazines: both constructors of an offset see to that. Caches live for
    // ever.
    unsafe { &*place.add(offset_of!(ThreadCache, magazines)).cast() }
}

/// Takes a block from the calling thread's magazine, if there is one.
#[inline(always)]
pub(crate) fn alloc_at(offset: MagazineOffset) -> Option<NonNull<u8>> {
    magazine_at(offset).alloc()
}

/// Puts a free block of the magazine's class into the calling thread's magazine, or calls `slow` if there is no room.
///
/// This repeats `Magazine::put`: with one function for both, the compiler spent five more instructions on each flush.
#[inline(always)]
pub(crate) fn free_at_or(offset: MagazineOffset, block: *mut u8, slow: impl FnOnce()) {
    let magazine = magazine_at(offset);
    // Relaxed (both): as in `put`.
    let top = magazine.top.load(Ordering::Relaxed);
    if top >= magazine.ceiling.load(Ordering::Relaxed) {
        return slow();
    }
    // SAFETY: as in `put`.
    if unsafe { last(top) } == block {
        return slow();
    }
    // SAFETY: `top` is below the array's end (*Bounds*). Relaxed: published by `top`.
    unsafe { &*top }.store(block, Ordering::Relaxed);
    // Release: as in `put`; pairs with the Acquire in `blocks`.
    // SAFETY: at most one past the array's end.
    magazine.top.store(unsafe { top.add(1) }, Ordering::Release);
}
