//! The route of a request, which depends on its layout alone.

use core::alloc::{GlobalAlloc, Layout};

use crate::base::size_class::{SizeClass, block_align};
use crate::cache::current;
use crate::marks::{self, PAD_BYTES};
use crate::os::BYPASS;

/// The class that serves `layout`; `None` for the large allocator. (`PAD_BYTES` is 0, unless blocks are marked for a
/// tool.)
#[inline(always)]
pub(super) const fn small(layout: Layout) -> Option<SizeClass> {
    if BYPASS { None } else { SizeClass::of_size_align(layout.size() + PAD_BYTES, block_align(layout)) }
}

/// Frees a small block, or calls `large`.
///
/// # Safety
/// As for `GlobalAlloc::dealloc`.
#[inline(always)]
pub(super) unsafe fn dealloc_or(ptr: *mut u8, layout: Layout, large: impl FnOnce()) {
    let Some(class) = small(layout) else { return large() };
    marks::freed(ptr, layout.size());
    // SAFETY: a block of the class, because `alloc` chose the class by the same layout.
    unsafe { current().free(class, ptr) }
}

/// `alloc_zeroed` where the block must be marked as in use before it is cleared (see `marks`).
///
/// # Safety
/// As for `GlobalAlloc::alloc`.
#[inline(never)]
pub(super) unsafe fn alloc_and_clear(allocator: &impl GlobalAlloc, layout: Layout) -> *mut u8 {
    // SAFETY: the caller keeps the same contract; a block has the bytes of its layout.
    unsafe {
        let block = allocator.alloc(layout);
        if !block.is_null() {
            block.write_bytes(0, layout.size());
        }
        block
    }
}

/// Moves a block to a new one for `new_layout`, perhaps of another allocator.
///
/// # Safety
/// As for `GlobalAlloc::realloc`.
#[inline(never)]
pub(super) unsafe fn realloc_by_copy(
    allocator: &impl GlobalAlloc,
    ptr: *mut u8,
    layout: Layout,
    new_layout: Layout,
) -> *mut u8 {
    // SAFETY: the caller keeps `realloc`'s contract. If there is no new block, the old one stays the caller's.
    unsafe {
        let new = allocator.alloc(new_layout);
        if !new.is_null() {
            new.copy_from_nonoverlapping(ptr, layout.size().min(new_layout.size()));
            allocator.dealloc(ptr, layout);
        }
        new
    }
}
