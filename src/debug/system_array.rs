//! Arrays in memory of the system allocator, for the debug hooks, which can't use the allocator that they check.

use core::ptr::NonNull;
use std::alloc::{GlobalAlloc, Layout, System};

/// An array whose length is fixed when it is made.
///
/// # Invariants
/// `start` is valid for `len` values, all of them initialised, allocated by `System` unless `len` is 0.
pub(super) struct SystemArray<T: Copy> {
    start: NonNull<T>,
    len: usize,
}

// SAFETY: it owns its values, as a `Box` does.
unsafe impl<T: Copy + Send> Send for SystemArray<T> {}

impl<T: Copy> SystemArray<T> {
    /// No values, no memory.
    pub(super) const fn new() -> Self {
        Self { start: NonNull::dangling(), len: 0 }
    }

    /// `len` copies of `value`; `None` without memory.
    pub(super) fn filled(len: usize, value: T) -> Option<Self> {
        let layout = Layout::array::<T>(len).ok().filter(|layout| layout.size() != 0)?;
        // SAFETY: the size is not 0.
        let start = NonNull::new(unsafe { System.alloc(layout) }.cast::<T>())?;
        for index in 0..len {
            // SAFETY: inside the array.
            unsafe { start.add(index).write(value) };
        }
        Some(Self { start, len })
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    pub(super) const fn as_slice(&self) -> &[T] {
        // SAFETY: the type's invariant.
        unsafe { core::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// Panics unless `index` is below the length: all callers mask it.
    pub(super) const fn get(&self, index: usize) -> &T {
        &self.as_slice()[index]
    }

    /// As [`get`](Self::get).
    pub(super) const fn get_mut(&mut self, index: usize) -> &mut T {
        // SAFETY: the type's invariant.
        let values = unsafe { core::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) };
        &mut values[index]
    }
}

impl<T: Copy> Drop for SystemArray<T> {
    fn drop(&mut self) {
        if let Ok(layout) = Layout::array::<T>(self.len)
            && self.len != 0
        {
            // SAFETY: allocated by `filled` with this layout.
            unsafe { System.dealloc(self.start.as_ptr().cast(), layout) };
        }
    }
}
