//! Nobody looks on.

pub(crate) fn allocated(_block: *mut u8, _bytes: usize) {}

pub(crate) fn freed(_block: *mut u8, _bytes: usize) {}
