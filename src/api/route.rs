//! Where a request goes, by its layout alone.

use core::alloc::Layout;

use crate::base::size_class::{SizeClass, block_align};
use crate::cache::current;
use crate::marks::{self, PAD_BYTES};
use crate::os::BYPASS;

/// The class that serves `layout`; `None` for the large allocator. (`PAD_BYTES` is 0 unless a tool is told of blocks.)
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
