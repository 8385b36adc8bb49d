//! The quarantine: a queue of freed blocks that are kept from reuse for a while, so that a write into one is found. A
//! second queue keeps the records of blocks that left it, so that a second free is recognised.
//!
//! The first one refers to its blocks, which would pass for leaked otherwise. The second one must not refer to blocks
//! that are handed out at the same addresses, so it has them [`Hidden`](super::hidden::Hidden).

use core::ptr::NonNull;

use super::system_array::SystemArray;

/// A block in a queue. The serial number distinguishes it from a later block at the same address.
#[derive(Clone, Copy)]
pub(super) struct Queued<S = NonNull<u8>> {
    pub(super) start: S,
    pub(super) serial: u64,
    /// Bytes of the whole block, pads included.
    pub(super) extent_bytes: usize,
}

// SAFETY: an address and numbers; the thread that takes a block out of the queue owns it.
unsafe impl<S> Send for Queued<S> {}

/// A first-in, first-out queue that grows as needed.
pub(super) struct Queue<S: Copy = NonNull<u8>> {
    places: SystemArray<Option<Queued<S>>>,
    first: usize,
    len: usize,
    bytes: usize,
}

const PLACES_MIN: usize = 256;

impl<S: Copy> Queue<S> {
    pub(super) const fn new() -> Self {
        Self { places: SystemArray::new(), first: 0, len: 0, bytes: 0 }
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// Sum of the blocks' extents.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds a block; `false` without memory.
    pub(super) fn push(&mut self, block: Queued<S>) -> bool {
        if self.len == self.places.len() && !self.grow() {
            return false;
        }
        let mask = self.places.len() - 1;
        *self.places.get_mut((self.first + self.len) & mask) = Some(block);
        self.len += 1;
        self.bytes += block.extent_bytes;
        true
    }

    fn grow(&mut self) -> bool {
        let Some(mut places) = SystemArray::filled(PLACES_MIN.max(self.places.len() * 2), None) else { return false };
        for index in 0..self.len {
            *places.get_mut(index) = *self.places.get((self.first + index) & (self.places.len() - 1));
        }
        self.places = places;
        self.first = 0;
        true
    }

    /// Takes the oldest block.
    pub(super) fn pop(&mut self) -> Option<Queued<S>> {
        if self.len == 0 {
            return None;
        }
        let block = self.places.get_mut(self.first).take()?;
        self.first = (self.first + 1) & (self.places.len() - 1);
        self.len -= 1;
        self.bytes -= block.extent_bytes;
        Some(block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_first_leaves_first_however_the_queue_grows() {
        let mut queue = Queue::new();
        assert!(queue.pop().is_none());
        let (mut next_in, mut next_out) = (1_u64, 1_u64);
        for round in 0..200_u64 {
            for _ in 0..round {
                let start = NonNull::<u8>::dangling();
                assert!(queue.push(Queued { start, serial: next_in, extent_bytes: next_in as usize }));
                next_in += 1;
            }
            for _ in 0..round / 2 {
                assert_eq!(queue.pop().expect("not empty").serial, next_out);
                next_out += 1;
            }
            assert_eq!(queue.len() as u64, next_in - next_out);
            assert_eq!(queue.bytes() as u64, (next_out..next_in).sum::<u64>());
        }
    }
}
