//! [`Medium`]: the large allocator that serves requests of 513 bytes to 1 MiB from the arenas, too.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr;
use std::alloc::System;

use super::route::{alloc_and_clear, realloc_by_copy};
use crate::base::config::{POOL_BYTES, POOL_SHIFT, RUN_MAX_BYTES, SMALL_MAX_BYTES};
use crate::base::fatal::{Impossible, impossible};
use crate::base::size_class::MediumClass;
use crate::cache::{self, GLOBAL, current, hardened};
use crate::heap::pool::Block;
use crate::heap::run::RunSize;
use crate::marks::{self, PAD_BYTES};
use crate::observe::Request;
use crate::os::{BYPASS, COMMITS};

/// A large allocator for programs that allocate more than small objects: it serves requests up to 1 MiB from pools.
///
/// Requests up to [`MEDIUM_MAX_BYTES`](crate::MEDIUM_MAX_BYTES) get blocks of pools, those up to [`RUN_MAX_BYTES`] get
/// runs of pools, and larger ones go to `L`.
///
/// Requests from 513 bytes on have 48 size classes, eight for each doubling, with the same magazines, pools and frees
/// between threads as small ones. A request of more than 32 KiB gets a *run*: free pools side by side. All these blocks
/// come from the same arenas as the small ones. So memory that one size leaves free serves the others,
/// [`purge()`](crate::purge()) gives it back, and [`set_limit`](crate::set_limit) bounds it.
///
/// It pays in programs that allocate many blocks between 513 bytes and 1 MiB: buffers, messages, pages, growing
/// vectors. A program of small objects gains nothing.
///
/// On Windows it passes every request on to `L`, because it was not tried there.
///
/// Without [`Pymalloc`](crate::Pymalloc) in front of it, it passes requests up to 512 bytes on to `L`, too.
///
/// # Errors
/// As for [`Pymalloc`](crate::Pymalloc): the methods return null when the OS gives no memory, or the limit is reached.
///
/// # Aborts
/// As for [`Pymalloc`](crate::Pymalloc), when a freed block proves impossible. If a run is freed twice or with another
/// layout, the call itself aborts.
///
/// # Examples
/// ```
/// use pymalloc::{Medium, Pymalloc};
///
/// #[global_allocator]
/// static GLOBAL: Pymalloc<Medium> = Pymalloc::with_large(Medium::new());
///
/// let buffers: Vec<Vec<u8>> = (0..100).map(|n| vec![n; 8 << 10]).collect();
/// assert_eq!(buffers.len(), 100);
/// # if !cfg!(pymalloc_bypass) {
/// assert!(pymalloc::stats().medium.iter().any(|class| class.blocks_live >= 100));
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Medium<L = System> {
    large: L,
}

impl Medium {
    /// Makes an allocator that passes larger requests to the system's `malloc`.
    pub const fn new() -> Self {
        Self { large: System }
    }
}

impl<L> Medium<L> {
    /// Makes an allocator that passes larger requests to `large`.
    ///
    /// ```
    /// use pymalloc::{Medium, Pymalloc};
    /// use std::alloc::System;
    ///
    /// static GLOBAL: Pymalloc<Medium<System>> = Pymalloc::with_large(Medium::with_large(System));
    /// ```
    pub const fn with_large(large: L) -> Self {
        Self { large }
    }

    /// The allocator for larger requests.
    pub const fn large(&self) -> &L {
        &self.large
    }
}

/// Where a request goes, by its size and alignment alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    Class(MediumClass),
    Run(RunSize),
    /// The next allocator serves it.
    Beyond,
}

impl Place {
    #[inline(always)]
    const fn of(layout: Layout) -> Self {
        Self::of_size_align(layout.size() + PAD_BYTES, layout.align())
    }

    /// The place of a request of `size` bytes; `align` is a power of two.
    #[inline(always)]
    pub(super) const fn of_size_align(size: usize, align: usize) -> Self {
        if BYPASS || COMMITS {
            return Self::Beyond;
        }
        if let Some(class) = MediumClass::of_size_align(size, align) {
            return Self::Class(class);
        }
        let last = size.wrapping_sub(1) | (align - 1);
        // No class fits: the request is small, for a run, or beyond.
        if last < SMALL_MAX_BYTES || last >= RUN_MAX_BYTES {
            return Self::Beyond;
        }
        let align_pools = if align > POOL_BYTES { align >> POOL_SHIFT } else { 1 };
        Self::Run(RunSize { pools: (last >> POOL_SHIFT) + 1, align_pools })
    }

    /// A block, or null when there is no memory. Always null for `Beyond`.
    #[inline(always)]
    pub(super) fn alloc(self, request: Request) -> *mut u8 {
        match self {
            Self::Class(class) => current().alloc(class, request),
            Self::Run(size) => alloc_run(size).map_or(ptr::null_mut(), |run| run.start.as_ptr()),
            Self::Beyond => ptr::null_mut(),
        }
    }

    /// The same, with the first `bytes` of the block zero. The block has at least that many.
    #[inline(always)]
    pub(super) fn alloc_zeroed(self, bytes: usize, request: Request) -> *mut u8 {
        match self {
            Self::Class(class) => current().alloc_zeroed(class, request),
            Self::Run(size) => alloc_run(size).map_or(ptr::null_mut(), |run| {
                if !run.zeroed {
                    // SAFETY: a run of at least `bytes`, in our hands.
                    unsafe { run.start.write_bytes(0, bytes) };
                }
                run.start.as_ptr()
            }),
            Self::Beyond => ptr::null_mut(),
        }
    }

    /// Takes back a block.
    ///
    /// # Safety
    /// `block` is a block of this place, in the caller's hands.
    #[inline(always)]
    pub(super) unsafe fn free(self, block: *mut u8) {
        match self {
            // SAFETY: the caller's promise is the same.
            Self::Class(class) => unsafe { current().free(class, block) },
            Self::Run(size) => free_run(block, size),
            Self::Beyond => {}
        }
    }

    /// Turns the block into a block of `new` without moving it, and returns whether that was possible. It never is if
    /// one of the two places is `Beyond` or if they differ in kind.
    #[inline(always)]
    pub(super) fn resize(self, block: *mut u8, new: Self) -> bool {
        match (self, new) {
            (Self::Class(old), Self::Class(new)) if old == new => {
                hardened::check_live(current(), old, block);
                true
            }
            (Self::Run(old), Self::Run(new)) => resize_run(block, old, new),
            _ => false,
        }
    }
}

// SAFETY: blocks of a class are as in `Pymalloc`. Runs are disjoint pools that no set owns, as many as the layout
// needs, at a multiple of its alignment. The next allocator keeps the contract itself, and gets the same layouts in all
// four methods. The layout alone decides where a request goes.
unsafe impl<L: GlobalAlloc> GlobalAlloc for Medium<L> {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match Place::of(layout) {
            // SAFETY: the caller keeps the same contract.
            Place::Beyond => unsafe { self.large.alloc(layout) },
            place => {
                current().forget_large(layout.size());
                marks::allocated(place.alloc(Request::of_bytes(layout.size())), layout.size())
            }
        }
    }

    #[inline]
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        let place = Place::of(layout);
        if place == Place::Beyond {
            hardened::check_beyond(ptr);
            // SAFETY: the caller keeps the same contract.
            return unsafe { self.large.dealloc(ptr, layout) };
        }
        marks::freed(ptr, layout.size());
        // SAFETY: a block of the place, because `alloc` chose it by the same layout.
        unsafe { place.free(ptr) }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        match Place::of(layout) {
            // SAFETY: the caller keeps the same contract.
            Place::Beyond => unsafe { self.large.alloc_zeroed(layout) },
            // SAFETY: the caller keeps the same contract.
            _ if marks::IS_ON => unsafe { alloc_and_clear(self, layout) },
            place => {
                current().forget_large(layout.size());
                place.alloc_zeroed(layout.size(), Request::of_bytes(layout.size()))
            }
        }
    }

    /// Keeps the block where it is if the class does not change, or if a run can be resized there.
    #[inline]
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller promises that `new_size`, rounded up to the alignment, does not overflow an `isize`.
        let new_layout = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        let (old, new) = (Place::of(layout), Place::of(new_layout));
        if (old, new) == (Place::Beyond, Place::Beyond) {
            hardened::check_beyond(ptr);
            // SAFETY: the caller keeps the same contract.
            return unsafe { self.large.realloc(ptr, layout, new_size) };
        }
        if old.resize(ptr, new) {
            marks::resized(ptr, layout.size(), new_size);
            return ptr;
        }
        // SAFETY: the caller keeps the same contract.
        unsafe { realloc_by_copy(self, ptr, layout, new_layout) }
    }
}

#[inline(never)]
fn alloc_run(size: RunSize) -> Option<Block> {
    cache::alloc_run(&GLOBAL, size)
}

#[inline(never)]
fn free_run(start: *mut u8, size: RunSize) {
    if let Err(what) = GLOBAL.free_run(start.addr(), size.pools) {
        refuse_run(start, size, what);
    }
}

#[inline(never)]
fn resize_run(start: *mut u8, old: RunSize, new: RunSize) -> bool {
    match GLOBAL.resize_run(start.addr(), old.pools, new.pools) {
        Ok(is_resized) => is_resized,
        Err(what) => refuse_run(start, old, what),
    }
}

#[cold]
fn refuse_run(start: *mut u8, size: RunSize, what: Impossible) -> ! {
    impossible(what, start.addr(), size.pools * POOL_BYTES)
}
