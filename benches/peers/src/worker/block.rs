//! Memory as the workloads hold it: a block of a size known at run time, a chain of nodes.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::hint::black_box;
use std::ptr::NonNull;

/// A block of some size, aligned to 8 bytes (or more, on request), its first byte written.
#[derive(Debug)]
pub struct Block {
    address: NonNull<u8>,
    // Two halves of a `Layout`, so that a handle takes 16 bytes and not 24.
    bytes: u32,
    align: u32,
}

// SAFETY: a block is memory that one owner may read, write and free, on any thread.
unsafe impl Send for Block {}

impl Block {
    /// A block of `bytes` bytes, not 0.
    #[inline]
    pub fn new(bytes: usize) -> Self {
        Self::aligned(bytes, 8)
    }

    /// A block of `bytes` bytes, not 0, aligned to `align`, a power of two.
    #[inline]
    pub fn aligned(bytes: usize, align: usize) -> Self {
        debug_assert!(bytes > 0 && align.is_power_of_two());
        // SAFETY: every size and alignment of the workloads is a small constant.
        let layout = unsafe { Layout::from_size_align_unchecked(bytes, align) };
        // SAFETY: the size is not 0. `black_box` keeps the compiler from dropping the pair.
        let address = black_box(unsafe { alloc(layout) });
        let Some(address) = NonNull::new(address) else { handle_alloc_error(layout) };
        // A program writes to what it asked for.
        // SAFETY: the block has at least one byte, and it is ours.
        unsafe { address.write(bytes as u8) };
        Self { address, bytes: bytes as u32, align: align as u32 }
    }

    /// Its size as written into it: reads the memory.
    #[inline]
    pub fn first_byte(&self) -> u64 {
        // SAFETY: the byte was written when the block was made.
        u64::from(unsafe { self.address.read() })
    }

    /// The first byte, for writes that the compiler must not merge.
    #[inline]
    pub const fn as_ptr(&self) -> *mut u8 {
        self.address.as_ptr()
    }

    /// Its size.
    #[inline]
    pub const fn bytes(&self) -> usize {
        self.bytes as usize
    }

    #[inline]
    const fn layout(&self) -> Layout {
        // SAFETY: the halves of the layout that `aligned` made.
        unsafe { Layout::from_size_align_unchecked(self.bytes as usize, self.align as usize) }
    }
}

impl Drop for Block {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: `alloc` gave the address for this layout, and only the owner frees it.
        unsafe { dealloc(self.address.as_ptr(), self.layout()) }
    }
}

/// A singly linked list of nodes of 32 bytes: many small blocks in one pointer, so that sending
/// them to another thread needs no buffer of its own.
#[derive(Debug, Default)]
pub struct Chain {
    head: Option<Box<Node>>,
}

#[derive(Debug)]
struct Node {
    next: Option<Box<Node>>,
    payload: [u64; 3],
}

impl Chain {
    /// A chain of `count` nodes.
    pub fn new(count: usize) -> Self {
        let mut chain = Self::default();
        for number in 0..count {
            chain.push(number as u64);
        }
        chain
    }

    /// Adds a node at the front.
    #[inline]
    pub fn push(&mut self, value: u64) {
        self.head = Some(Box::new(Node { next: self.head.take(), payload: [value; 3] }));
    }

    /// Takes and frees the node at the front.
    #[inline]
    pub fn pop(&mut self) -> Option<u64> {
        let node = self.head.take()?;
        self.head = node.next;
        Some(node.payload[1])
    }

    /// Turns the list around without allocating.
    pub fn reverse(&mut self) {
        let mut reversed = None;
        while let Some(mut node) = self.head.take() {
            self.head = node.next.take();
            node.next = reversed;
            reversed = Some(node);
        }
        self.head = reversed;
    }

    /// Frees all nodes, front first; returns the sum of their values.
    pub fn consume(mut self) -> u64 {
        let mut sum = 0_u64;
        while let Some(value) = self.pop() {
            sum = sum.wrapping_add(value);
        }
        sum
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        // The derived drop would recurse once a node.
        while self.pop().is_some() {}
    }
}
