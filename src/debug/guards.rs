//! The bytes that the debug hooks write and check (CPython's values), and where they lie around a block.
//!
//! ```text
//! ┌──────────────────────────────┬───────────────────┬──────────────┐
//! │ leading pad: FORBIDDEN_BYTE   │ the program's     │ trailing pad │
//! │ PAD_BYTES, or the alignment  │ bytes: CLEAN_BYTE  │ PAD_BYTES    │
//! └──────────────────────────────┴───────────────────┴──────────────┘
//! ▲ what the inner allocator gave ▲ start, aligned as asked
//! ```

use core::alloc::Layout;
use core::ptr::NonNull;

use super::table::Record;
use crate::base::size_class::block_align;

/// The byte that fills memory when it is allocated (CPython's `PYMEM_CLEANBYTE`).
#[doc(alias = "CLEANBYTE")]
#[doc(alias = "PYMEM_CLEANBYTE")]
pub const CLEAN_BYTE: u8 = 0xCD;
/// The byte that fills memory when it is freed (CPython's `PYMEM_DEADBYTE`).
#[doc(alias = "DEADBYTE")]
#[doc(alias = "PYMEM_DEADBYTE")]
pub const DEAD_BYTE: u8 = 0xDD;
/// The byte that fills the pads on both sides of a block (CPython's `PYMEM_FORBIDDENBYTE`).
#[doc(alias = "FORBIDDENBYTE")]
#[doc(alias = "PYMEM_FORBIDDENBYTE")]
pub const FORBIDDEN_BYTE: u8 = 0xFD;

/// Bytes of the trailing pad; also the least bytes of the leading pad.
pub(super) const PAD_BYTES: usize = 16;

/// Bytes of the leading pad: a multiple of the alignment, so that the start is aligned.
pub(super) const fn leading_bytes(align: usize) -> usize {
    if align > PAD_BYTES { align } else { PAD_BYTES }
}

/// The layout with both pads; `None` if that is too large.
pub(super) fn padded(layout: Layout) -> Option<Layout> {
    let pads = leading_bytes(layout.align()) + PAD_BYTES;
    Layout::from_size_align(layout.size().checked_add(pads)?, block_align(layout)).ok()
}

/// One of the three parts of a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Part {
    Leading,
    Data,
    Trailing,
}

impl Record {
    pub(super) const fn align(&self) -> usize {
        1 << self.align_shift
    }

    /// The layout that the program asked for.
    pub(super) fn layout(&self) -> Layout {
        // SAFETY: both were taken from a layout.
        unsafe { Layout::from_size_align_unchecked(self.bytes, self.align()) }
    }

    /// The first byte of the inner allocator's block.
    pub(super) fn raw(&self) -> *mut u8 {
        self.start.get().as_ptr().wrapping_sub(leading_bytes(self.align()))
    }

    /// Bytes of the inner allocator's block.
    pub(super) const fn extent_bytes(&self) -> usize {
        leading_bytes(self.align()) + self.bytes + PAD_BYTES
    }

    /// Start and length of a part.
    pub(super) fn part(&self, part: Part) -> (*mut u8, usize) {
        match part {
            Part::Leading => (self.raw(), leading_bytes(self.align())),
            Part::Data => (self.start.get().as_ptr(), self.bytes),
            Part::Trailing => (self.start.get().as_ptr().wrapping_add(self.bytes), PAD_BYTES),
        }
    }

    /// Fills a part.
    ///
    /// # Safety
    /// The block is mapped and the caller's to write.
    pub(super) unsafe fn fill(&self, part: Part, byte: u8) {
        let (start, bytes) = self.part(part);
        // SAFETY: inside the block.
        unsafe { start.write_bytes(byte, bytes) };
    }

    /// Whether every byte of a part is `expected`.
    ///
    /// # Safety
    /// The block is mapped, and no thread writes into the part, except by mistake.
    pub(super) unsafe fn is_filled(&self, part: Part, expected: u8) -> bool {
        let (start, bytes) = self.part(part);
        // SAFETY: inside the block. The inner allocator's bytes are initialised: the hooks wrote them all.
        let bytes = unsafe { core::slice::from_raw_parts(start, bytes) };
        let pattern = [expected; 64];
        bytes.chunks(pattern.len()).all(|chunk| *chunk == pattern[..chunk.len()])
    }

    /// The first pad, if any, that is damaged. For live and dying blocks.
    ///
    /// # Safety
    /// As for [`is_filled`](Self::is_filled).
    pub(super) unsafe fn broken_pad(&self) -> Option<Part> {
        // SAFETY: the caller's promise is the same.
        let broken = |part: &Part| !unsafe { self.is_filled(*part, FORBIDDEN_BYTE) };
        [Part::Leading, Part::Trailing].into_iter().find(broken)
    }

    /// The first part, if any, that was written into after the block was freed.
    ///
    /// # Safety
    /// As for [`is_filled`](Self::is_filled).
    pub(super) unsafe fn written_after_free(&self) -> Option<Part> {
        // SAFETY: the caller's promise is the same.
        let broken = |part: &Part| !unsafe { self.is_filled(*part, DEAD_BYTE) };
        [Part::Data, Part::Leading, Part::Trailing].into_iter().find(broken)
    }
}

/// The start of the program's part of the inner allocator's block at `raw`.
pub(super) fn start_of(raw: *mut u8, layout: Layout) -> Option<NonNull<u8>> {
    NonNull::new(raw.wrapping_add(leading_bytes(layout.align())))
}
