//! [`Pymalloc`]: the `GlobalAlloc` that routes each request to a pool or to the large allocator.

use core::alloc::{GlobalAlloc, Layout};
use core::any::type_name;
use std::alloc::System;

use super::medium::Medium;
use super::route::{alloc_and_clear, dealloc_or, realloc_by_copy, small};
use crate::cache::current;
use crate::cache::hardened;
use crate::marks;
use crate::observe::{self, Request};

/// A global allocator after CPython's pymalloc: it serves small requests from pools, and the rest from a large
/// allocator.
///
/// A layout whose size, rounded up to its alignment, is at most [`SMALL_MAX_BYTES`](crate::SMALL_MAX_BYTES) is served
/// from pools. Every other layout goes to `L`, by default [`System`]. The layout alone decides, so a block always goes
/// back where it came from. With [`Medium`] as `L`, requests up to 1 MiB come from the same arenas. All
/// values of this type, whatever their `L`, share one heap.
///
/// # Errors
/// `alloc`, `alloc_zeroed` and `realloc` return null when the OS gives no memory, and work again when it does.
/// `dealloc` never fails. No method panics or unwinds.
///
/// # Aborts
/// A freed block stays in its thread's cache for a while and then returns to its pool. If it proves impossible there
/// (already free, not the start of a block, in a pool of another size class, or in no arena), the process writes one
/// line that begins with `pymalloc:` to stderr and aborts. Two mistakes are not seen: a block is freed twice, but was
/// handed out again in between; or a small block is freed with the layout of a large one (then the large allocator gets
/// it).
///
/// # Examples
/// ```
/// use pymalloc::Pymalloc;
///
/// #[global_allocator]
/// static GLOBAL: Pymalloc = Pymalloc::new();
///
/// let words: Vec<String> = "arenas are cut into pools".split(' ').map(String::from).collect();
/// assert_eq!(words.len(), 5);
/// ```
#[doc(alias = "obmalloc")]
#[doc(alias = "PyObject_Malloc")]
#[doc(alias = "malloc")]
#[derive(Clone, Copy, Debug, Default)]
pub struct Pymalloc<L = System> {
    large: L,
}

impl Pymalloc {
    /// Makes an allocator that passes large requests to the system's `malloc`.
    ///
    /// ```
    /// # use pymalloc::Pymalloc;
    /// static GLOBAL: Pymalloc = Pymalloc::new();
    /// ```
    pub const fn new() -> Self {
        Self { large: System }
    }
}

impl<L> Pymalloc<L> {
    /// Makes an allocator that passes the requests that pools don't serve to `large`.
    ///
    /// ```
    /// use pymalloc::Pymalloc;
    /// use std::alloc::System;
    ///
    /// static GLOBAL: Pymalloc<System> = Pymalloc::with_large(System);
    /// ```
    pub const fn with_large(large: L) -> Self {
        Self { large }
    }

    /// The allocator for large requests.
    ///
    /// ```
    /// # use pymalloc::Pymalloc;
    /// let allocator = Pymalloc::with_large(7);
    /// assert_eq!(*allocator.large(), 7);
    /// ```
    pub const fn large(&self) -> &L {
        &self.large
    }
}

// SAFETY: blocks of a class are disjoint, at least as large as their layouts, and aligned to them (`size_class`); a
// block in the program's hands is in no magazine and not free in its pool (`pool`, `cache`). The large allocator keeps
// the contract itself, and gets exactly the layouts that `small` refuses, in all four methods.
unsafe impl<L: GlobalAlloc> GlobalAlloc for Pymalloc<L> {
    #[cfg_attr(feature = "hardened", inline(always))]
    #[cfg_attr(not(feature = "hardened"), inline)]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match small(layout) {
            Some(class) => marks::allocated(current().alloc(class, Request::of_bytes(layout.size())), layout.size()),
            // SAFETY: the caller keeps the same contract.
            None => unsafe { self.alloc_large(layout) },
        }
    }

    #[cfg_attr(feature = "hardened", inline(always))]
    #[cfg_attr(not(feature = "hardened"), inline)]
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the same contract.
        unsafe {
            dealloc_or(ptr, layout, || self.dealloc_large(ptr, layout));
        }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        match small(layout) {
            // SAFETY: the caller keeps the same contract.
            Some(_) if marks::IS_ON => unsafe { alloc_and_clear(self, layout) },
            Some(class) => current().alloc_zeroed(class, Request::of_bytes(layout.size())),
            // SAFETY: the caller keeps the same contract.
            None => unsafe { self.alloc_zeroed_large(layout) },
        }
    }

    /// Keeps the block if and only if the class does not change. CPython also keeps a block that shrinks by less than a
    /// quarter. This allocator can't: `dealloc` is told the new size, and finds the class by it.
    #[inline]
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller promises that `new_size`, rounded up to the alignment, does not overflow an `isize`.
        let new_layout = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        match (small(layout), small(new_layout)) {
            (Some(old), Some(new)) if old == new => {
                hardened::check_live(current(), old, ptr);
                marks::resized(ptr, layout.size(), new_size);
                ptr
            }
            // SAFETY: the caller keeps the same contract.
            (None, None) => unsafe { self.realloc_large(ptr, layout, new_size) },
            _ => {
                // SAFETY: `new_size` is not 0, and `ptr` is a block of `layout`.
                unsafe { realloc_by_copy(self, ptr, layout, new_layout) }
            }
        }
    }
}

/// Whether the large allocator `L` is the system's. Names are compared because identities need `'static`.
#[cold]
fn uses_malloc<L>() -> bool {
    let name = type_name::<L>();
    name == type_name::<System>() || name == type_name::<Medium>()
}

// --- Large requests ------------------------------------------------------------------------------------------------

// These are never inlined. The fast path of small requests is inlined everywhere, and must save no registers for these
// functions; each of them ends in a jump, not in a call. Observers are told of a block while no other thread can have
// its address.
impl<L: GlobalAlloc> Pymalloc<L> {
    /// # Safety
    /// As for `GlobalAlloc::alloc`; the request is large.
    #[inline(never)]
    unsafe fn alloc_large(&self, layout: Layout) -> *mut u8 {
        if observe::is_wanted() {
            // SAFETY: the caller keeps the same contract.
            return unsafe { self.alloc_observed(layout) };
        }
        current().note_large(layout.size(), uses_malloc::<L>);
        // SAFETY: the caller keeps the same contract.
        unsafe { self.large.alloc(layout) }
    }

    /// # Safety
    /// As for `GlobalAlloc::alloc`; the request is large.
    #[cold]
    #[inline(never)]
    unsafe fn alloc_observed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the same contract.
        let block = unsafe { self.large.alloc(layout) };
        observe::allocated_wanted(block, layout.size(), Request::of_bytes(layout.size()));
        block
    }

    /// # Safety
    /// As for `GlobalAlloc::alloc_zeroed`; the request is large.
    #[inline(never)]
    unsafe fn alloc_zeroed_large(&self, layout: Layout) -> *mut u8 {
        if observe::is_wanted() {
            // SAFETY: the caller keeps the same contract.
            return unsafe { self.alloc_zeroed_observed(layout) };
        }
        current().note_large(layout.size(), uses_malloc::<L>);
        // SAFETY: the caller keeps the same contract.
        unsafe { self.large.alloc_zeroed(layout) }
    }

    /// # Safety
    /// As for `GlobalAlloc::alloc_zeroed`; the request is large.
    #[cold]
    #[inline(never)]
    unsafe fn alloc_zeroed_observed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the same contract.
        let block = unsafe { self.large.alloc_zeroed(layout) };
        observe::allocated_wanted(block, layout.size(), Request::of_bytes(layout.size()));
        block
    }

    /// # Safety
    /// As for `GlobalAlloc::dealloc`; the request is large.
    #[inline(never)]
    unsafe fn dealloc_large(&self, ptr: *mut u8, layout: Layout) {
        hardened::check_large(ptr);
        if observe::is_wanted() {
            // SAFETY: the caller keeps the same contract.
            return unsafe { self.dealloc_observed(ptr, layout) };
        }
        // SAFETY: the caller keeps the same contract.
        unsafe { self.large.dealloc(ptr, layout) }
    }

    /// # Safety
    /// As for `GlobalAlloc::dealloc`; the request is large.
    #[cold]
    #[inline(never)]
    unsafe fn dealloc_observed(&self, ptr: *mut u8, layout: Layout) {
        observe::freed_wanted(ptr, layout.size());
        // SAFETY: the caller keeps the same contract.
        unsafe { self.large.dealloc(ptr, layout) };
    }

    /// # Safety
    /// As for `GlobalAlloc::realloc`; the request is large.
    #[inline(never)]
    unsafe fn realloc_large(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        hardened::check_large(ptr);
        if observe::is_wanted() {
            // SAFETY: the caller keeps the same contract.
            return unsafe { self.realloc_observed(ptr, layout, new_size) };
        }
        // SAFETY: the caller keeps the same contract.
        unsafe { self.large.realloc(ptr, layout, new_size) }
    }

    /// # Safety
    /// As for `GlobalAlloc::realloc`; the request is large.
    #[cold]
    #[inline(never)]
    unsafe fn realloc_observed(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller keeps the same contract.
        let realloc = || unsafe { self.large.realloc(ptr, layout, new_size) };
        observe::resized_wanted(ptr, layout.size(), new_size, realloc)
    }
}
