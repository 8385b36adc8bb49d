//! Blocks of the measured allocator. The list of their addresses lies in other memory, so that RSS shows only the
//! allocator.

use crate::offheap::Offheap;
use crate::random::Random;
use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};

/// Blocks, some of which may be freed already.
pub struct Blocks {
    addresses: Offheap<*mut u8>,
    sizes: Offheap<u32>,
}

// SAFETY: blocks are memory that one owner may read, write and free, on any thread.
unsafe impl Send for Blocks {}

fn layout(bytes: u32) -> Layout {
    Layout::from_size_align(bytes as usize, 8).expect("a size of the patterns")
}

impl Blocks {
    /// Allocates `count` blocks (not 0) of the sizes that `bytes` gives (not 0), and writes each byte.
    pub fn new(count: usize, mut bytes: impl FnMut() -> usize) -> Self {
        let mut blocks = Self { addresses: Offheap::new(count), sizes: Offheap::new(count) };
        for index in 0..count {
            let size = bytes() as u32;
            // SAFETY: the size is not 0.
            let block = unsafe { alloc(layout(size)) };
            if block.is_null() {
                handle_alloc_error(layout(size));
            }
            // SAFETY: the block has that many bytes, and it is ours.
            unsafe { block.write_bytes(1, size as usize) };
            (blocks.addresses[index], blocks.sizes[index]) = (block, size);
        }
        blocks
    }

    /// Puts the blocks into random order.
    pub fn shuffle(&mut self, random: &mut Random) {
        for index in (1..self.addresses.len()).rev() {
            let other = random.below(index + 1);
            self.addresses.swap(index, other);
            self.sizes.swap(index, other);
        }
    }

    /// Frees every `step`th block that is not freed yet, beginning with number `first`.
    pub fn free(&mut self, first: usize, step: usize) {
        for index in (first..self.addresses.len()).step_by(step) {
            let block = std::mem::replace(&mut self.addresses[index], std::ptr::null_mut());
            if !block.is_null() {
                // SAFETY: allocated by `new` with this layout, and the address was forgotten just now.
                unsafe { dealloc(block, layout(self.sizes[index])) };
            }
        }
    }
}

impl Drop for Blocks {
    fn drop(&mut self) {
        self.free(0, 1);
    }
}
