//! The twin of `rules` for processors other than x86-64, where no walk needs a table.

pub(in crate::trace) const TABLE_BYTES: usize = 0;

pub(in crate::trace) fn begin() {}

pub(in crate::trace) fn end() {}

pub(in crate::trace) fn acquire() {}

/// # Safety
/// None.
pub(in crate::trace) unsafe fn release() {}
