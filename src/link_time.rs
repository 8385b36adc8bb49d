//! `dealloc` as a call until link time, for programs that are built with link-time optimisation (the feature `lto`).
//!
//! A value that may have to be dropped while the stack unwinds is kept in memory, unless the compiler inlines its drop into
//! the unwinding path; and on paths that rare it inlines next to nothing. The free of a small block, inlined into a drop, is
//! too much; a call is not. So a program whose allocator is compiled together with its own code (by one code generation
//! unit) builds such values in memory, piece by piece, and then waits for the pieces to move them as a whole. Here the free
//! is in another crate: a call while the program is compiled, and inlined when it is linked, where that pays.

use core::alloc::{GlobalAlloc, Layout};

use crate::allocator::{Pymalloc, dealloc_or};

/// Frees a large block of the allocator at the first argument.
type Large = unsafe fn(*const (), *mut u8, Layout);

/// # Safety
/// As for `GlobalAlloc::dealloc`.
#[inline]
pub(crate) unsafe fn dealloc<L: GlobalAlloc>(allocator: &Pymalloc<L>, ptr: *mut u8, layout: Layout) {
    /// # Safety
    /// As for `GlobalAlloc::dealloc`, of the `Pymalloc<L>` at `allocator`; the request is large.
    unsafe fn large<L: GlobalAlloc>(allocator: *const (), ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the same contract.
        unsafe { (*allocator.cast::<Pymalloc<L>>()).dealloc_large(ptr, layout) }
    }
    // SAFETY: the caller keeps the contract; `large` gets the allocator that it is made for.
    unsafe { dealloc_later(ptr, layout, large::<L>, (&raw const *allocator).cast()) }
}

// Neither generic nor `inline`: compiled in this crate only.
/// # Safety
/// As for `GlobalAlloc::dealloc`, of the allocator at `allocator`, whose large blocks `large` frees.
#[cfg_attr(target_os = "linux", unsafe(link_section = ".text_pymalloc"))]
unsafe fn dealloc_later(ptr: *mut u8, layout: Layout, large: Large, allocator: *const ()) {
    // SAFETY: the caller keeps the contract.
    unsafe { dealloc_or(ptr, layout, || large(allocator, ptr, layout)) }
}
