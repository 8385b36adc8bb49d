//! Memory for the allocator's own data: cut from mappings of its own, between guards.
//!
//! Metadata never shares a mapping with blocks, and is never unmapped: a thread that has a pointer to a descriptor may
//! read it for ever. Nothing here is on a fast path.

use core::cell::Cell;
use core::ptr::{self, NonNull};

use crate::base::config::{CACHE_LINE_BYTES, METADATA_MAPPING_BYTES};
use crate::os::MemorySource;

/// Array sizes that are recycled: a cache line, two, four …
const SHELVES: usize = 8;

/// An unused array.
struct FreeArray {
    next: Cell<*mut FreeArray>,
}

/// The source of metadata; under the heap's lock.
pub(crate) struct Metadata {
    /// First byte not handed out yet, and bytes from there to the end of the mapping.
    cursor: *mut u8,
    rest_bytes: usize,
    /// Free arrays of each size.
    shelves: [*mut FreeArray; SHELVES],
    mapped_bytes: usize,
}

// SAFETY: plain pointers to memory that only this value knows.
unsafe impl Send for Metadata {}

impl Metadata {
    pub(crate) const fn new() -> Self {
        Self { cursor: ptr::null_mut(), rest_bytes: 0, shelves: [ptr::null_mut(); SHELVES], mapped_bytes: 0 }
    }

    /// Bytes mapped, guards included.
    pub(crate) fn mapped_bytes(&self) -> usize {
        self.mapped_bytes
    }

    /// Zeroed memory for one `T`, for ever; `None` when the OS gives none.
    ///
    /// A `T` of an OS page or more starts on one.
    #[cfg_attr(target_os = "linux", unsafe(link_section = ".text_pymalloc"))]
    pub(crate) fn alloc<T>(&mut self, source: &dyn MemorySource) -> Option<NonNull<T>> {
        let page_bytes = source.page_bytes();
        let align = if size_of::<T>() >= page_bytes { page_bytes } else { align_of::<T>().max(CACHE_LINE_BYTES) };
        self.cut(size_of::<T>().next_multiple_of(align), align, source).map(NonNull::cast)
    }

    /// Zeroed memory for `count` values of `T`, for ever, as [`alloc`](Self::alloc).
    pub(crate) fn alloc_many<T>(&mut self, count: usize, source: &dyn MemorySource) -> Option<NonNull<T>> {
        let align = align_of::<T>().max(CACHE_LINE_BYTES);
        self.cut((count * size_of::<T>()).next_multiple_of(align), align, source).map(NonNull::cast)
    }

    /// An array of `bytes`, a power of two of at least a cache line; its contents may be anything. The cache line in
    /// front of it is zero for ever.
    pub(crate) fn alloc_array(&mut self, bytes: usize, source: &dyn MemorySource) -> Option<NonNull<u8>> {
        debug_assert!(bytes.is_power_of_two());
        let shelf = self.shelves.get_mut((bytes / CACHE_LINE_BYTES).trailing_zeros() as usize)?;
        match NonNull::new(*shelf) {
            Some(array) => {
                // SAFETY: arrays on a shelf are mapped and unused.
                *shelf = unsafe { array.as_ref() }.next.get();
                Some(array.cast())
            }
            None => {
                let line = self.cut(CACHE_LINE_BYTES + bytes, CACHE_LINE_BYTES, source)?;
                NonNull::new(line.as_ptr().wrapping_add(CACHE_LINE_BYTES))
            }
        }
    }

    /// Takes back an array for later.
    ///
    /// # Safety
    /// `start` came from `alloc_array(bytes, _)`, and is no longer used.
    pub(crate) unsafe fn free_array(&mut self, start: NonNull<u8>, bytes: usize) {
        if let Some(shelf) = self.shelves.get_mut((bytes / CACHE_LINE_BYTES).trailing_zeros() as usize) {
            let array = start.cast::<FreeArray>();
            // SAFETY: the caller gives the memory up; it is aligned to a cache line and large enough.
            unsafe { array.write(FreeArray { next: Cell::new(*shelf) }) };
            *shelf = array.as_ptr();
        }
    }

    fn cut(&mut self, bytes: usize, align: usize, source: &dyn MemorySource) -> Option<NonNull<u8>> {
        let mut skip_bytes = self.cursor.addr().next_multiple_of(align) - self.cursor.addr();
        if self.rest_bytes < skip_bytes + bytes {
            self.map_more(bytes, source)?;
            skip_bytes = 0;
        }
        let start = self.cursor.wrapping_add(skip_bytes);
        self.cursor = start.wrapping_add(bytes);
        self.rest_bytes -= skip_bytes + bytes;
        NonNull::new(start)
    }

    /// Maps more memory, with an OS page of guard before and behind it. The rest of the last mapping is given up.
    fn map_more(&mut self, bytes: usize, source: &dyn MemorySource) -> Option<()> {
        let page_bytes = source.page_bytes();
        let usable_bytes = bytes.max(METADATA_MAPPING_BYTES).next_multiple_of(page_bytes);
        self.cursor = source.map_guarded(usable_bytes, page_bytes)?.as_ptr();
        self.rest_bytes = usable_bytes;
        self.mapped_bytes += usable_bytes + 2 * page_bytes;
        Some(())
    }
}
