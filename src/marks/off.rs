//! The hooks without a tool: they do nothing.

/// Whether a tool gets the marks.
pub(crate) const IS_ON: bool = false;

/// Least closed bytes behind each block.
pub(crate) const PAD_BYTES: usize = 0;

pub(crate) fn fresh(_start: *mut u8, _bytes: usize) {}

pub(crate) fn gone(_start: *mut u8, _bytes: usize) {}

#[inline(always)]
pub(crate) fn allocated(block: *mut u8, _bytes: usize) -> *mut u8 {
    block
}

#[inline(always)]
pub(crate) fn freed(_block: *mut u8, _bytes: usize) {}

#[inline(always)]
pub(crate) fn resized(_block: *mut u8, _old_bytes: usize, _new_bytes: usize) {}
