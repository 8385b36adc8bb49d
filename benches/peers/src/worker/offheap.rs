//! Arrays straight from the kernel: bookkeeping of a workload that must not show in the memory
//! that the allocator is charged with once the arrays are gone.

use std::ops::{Deref, DerefMut};
use std::{ptr, slice};

/// Plain old data for which all zero bytes are a value.
///
/// # Safety
/// Both must hold for the type.
pub unsafe trait Plain: Copy {}
// SAFETY: an integer.
unsafe impl Plain for u8 {}
// SAFETY: an integer.
unsafe impl Plain for u32 {}
// SAFETY: a raw pointer; zero is null.
unsafe impl Plain for *mut u8 {}

/// An array of zeroes, mapped for itself, unmapped when dropped.
#[derive(Debug)]
pub struct Offheap<T: Plain> {
    start: *mut T,
    len: usize,
}

impl<T: Plain> Offheap<T> {
    /// An array of `len` zeroes; `len` is not 0.
    pub fn new(len: usize) -> Self {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let bytes = len * size_of::<T>();
        // SAFETY: a new private mapping touches nothing that exists.
        let start = unsafe { libc::mmap(ptr::null_mut(), bytes, protection, flags, -1, 0) };
        assert_ne!(start, libc::MAP_FAILED, "no memory for the workload's own arrays");
        Self { start: start.cast(), len }
    }
}

impl<T: Plain> Deref for Offheap<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the mapping has `len` elements, zeroed or written, and lives as long as `self`.
        unsafe { slice::from_raw_parts(self.start, self.len) }
    }
}

impl<T: Plain> DerefMut for Offheap<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and `self` is borrowed for writing.
        unsafe { slice::from_raw_parts_mut(self.start, self.len) }
    }
}

impl<T: Plain> Drop for Offheap<T> {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping that `new` made; no borrow of it is left.
        let status = unsafe { libc::munmap(self.start.cast(), self.len * size_of::<T>()) };
        debug_assert_eq!(status, 0);
    }
}
