//! The tracer's own memory, straight from the OS: its tables grow inside calls of the allocator that it watches.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering};

use crate::os::{MemorySource, SystemMemory};

/// Bytes mapped for tables.
static MAPPED_BYTES: AtomicUsize = AtomicUsize::new(0);

pub(in crate::trace) fn mapped_bytes() -> usize {
    // Relaxed: a sum, ordering nothing.
    MAPPED_BYTES.load(Ordering::Relaxed)
}

/// A growing array of plain values, zeroed where it was never written.
///
/// # Invariants
/// - `start` is a mapping of `capacity` values, zeroed where none was written; it dangles if `capacity` is 0.
pub(crate) struct Mapped<T: Copy> {
    start: NonNull<T>,
    len: usize,
    capacity: usize,
}

// SAFETY: owns its memory, as a `Vec` does.
unsafe impl<T: Copy + Send> Send for Mapped<T> {}
// SAFETY: by a shared reference it is only read.
unsafe impl<T: Copy + Sync> Sync for Mapped<T> {}

impl<T: Copy> Mapped<T> {
    pub(crate) const fn new() -> Self {
        Self { start: NonNull::dangling(), len: 0, capacity: 0 }
    }

    /// `len` zeroed values; `None` when the OS gives nothing. For types that are valid when zeroed.
    pub(crate) fn zeroed(len: usize) -> Option<Self> {
        let mut values = Self::new();
        values.grow_to(len)?;
        values.len = len;
        Some(values)
    }

    pub(crate) fn push(&mut self, value: T) -> Option<()> {
        self.extend(&[value])
    }

    /// Adds all of `values`, or none when the OS gives nothing.
    pub(crate) fn extend(&mut self, values: &[T]) -> Option<()> {
        let len = self.len.checked_add(values.len())?;
        if len > self.capacity {
            self.grow_to(len.max(self.capacity * 2))?;
        }
        // SAFETY: room for them, just made; memory of this array's own.
        unsafe { self.start.add(self.len).as_ptr().copy_from_nonoverlapping(values.as_ptr(), values.len()) };
        self.len = len;
        Some(())
    }

    /// Takes values off the end, until `len` are left, and keeps the memory.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// How many values there is room for.
    #[cfg(feature = "graph")]
    pub(crate) const fn capacity(&self) -> usize {
        self.capacity
    }

    fn grow_to(&mut self, capacity: usize) -> Option<()> {
        let bytes = capacity.checked_mul(size_of::<T>())?.checked_next_multiple_of(SystemMemory.page_bytes())?;
        if bytes == 0 {
            return Some(());
        }
        let start: NonNull<T> = SystemMemory.map(bytes, SystemMemory.page_bytes())?.cast();
        // Relaxed: as in `mapped_bytes`.
        MAPPED_BYTES.fetch_add(bytes, Ordering::Relaxed);
        // SAFETY: the new mapping is larger, and is nobody else's.
        unsafe { start.as_ptr().copy_from_nonoverlapping(self.start.as_ptr(), self.len) };
        let old = Self { start, len: self.len, capacity: bytes / size_of::<T>() };
        drop(core::mem::replace(self, old));
        Some(())
    }
}

impl<T: Copy> core::ops::Deref for Mapped<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `len` values were written or are zero.
        unsafe { core::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T: Copy> core::ops::DerefMut for Mapped<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above; borrowed for writing.
        unsafe { core::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl<T: Copy> Drop for Mapped<T> {
    fn drop(&mut self) {
        if self.capacity == 0 {
            return;
        }
        let bytes = (self.capacity * size_of::<T>()).next_multiple_of(SystemMemory.page_bytes());
        // Relaxed: as in `mapped_bytes`.
        MAPPED_BYTES.fetch_sub(bytes, Ordering::Relaxed);
        // SAFETY: the whole mapping, given up. Its size is a multiple of the OS page, and `capacity` is less than one
        // value short of it, so rounding up restores it.
        unsafe { SystemMemory.unmap(self.start.cast(), bytes) };
    }
}

/// The first part of a buffer.
pub(in crate::trace) struct Filled<'buffer> {
    buffer: &'buffer mut [usize],
    len: usize,
}

impl<'buffer> Filled<'buffer> {
    pub(in crate::trace) fn new(buffer: &'buffer mut [usize]) -> Self {
        Self { buffer, len: 0 }
    }

    /// Adds a value; `false` if there is no room.
    pub(in crate::trace) fn push(&mut self, value: usize) -> bool {
        let Some(place) = self.buffer.get_mut(self.len) else { return false };
        *place = value;
        self.len += 1;
        true
    }

    /// The places that are left, to be filled from the first on.
    pub(in crate::trace) fn rest(&mut self) -> &mut [usize] {
        self.buffer.get_mut(self.len..).unwrap_or_default()
    }

    /// Marks all places as filled, except the last `left`.
    pub(in crate::trace) fn filled_but(&mut self, left: usize) {
        self.len = self.buffer.len().saturating_sub(left);
    }

    pub(in crate::trace) fn clear(&mut self) {
        self.len = 0;
    }

    pub(in crate::trace) fn into_slice(self) -> &'buffer [usize] {
        self.buffer.get(..self.len).unwrap_or_default()
    }
}
