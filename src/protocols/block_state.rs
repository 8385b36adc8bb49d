//! One byte per block: whether the program has the block.
//!
//! # Protocol
//! - The thread that hands a block out is its only holder. [`BlockState::hand_out`] reads the old state and stores
//!   "live".
//! - The thread that frees a block reads that it is live, and stores "freed": [`BlockState::free`].
//! - A block gets from the thread that freed it to the thread that hands it out next in one of three ways: through the
//!   thread's own magazine, through a set's lock (its door), or through the remote bits and their count. Each way
//!   orders the free before the next `hand_out`. So in a program that frees each block once, plain accesses are enough,
//!   and no order is needed here.
//!
//! Reading and storing are two steps, not one exchange: on x86-64 an exchange waits for all earlier stores. So two
//! frees of one block *at the same instant* may both find it live. The block is then in two caches. Either both hand it
//! out, and the second one finds that it is live already; or it comes back to its pool twice, which the pool finds.
//!
//! # Invariants
//! - *No false alarm*: in a program that frees each block once, `free` finds the block live, and `hand_out` finds it
//!   free.
//! - *One at a time*: of two calls of `free` for a block that are ordered, the second is refused, unless the block was
//!   handed out in between; of two calls of `hand_out`, alike.
//! - *Start*: a live byte belongs to the start of a block of its class, in a pool of that class, because only such
//!   blocks are handed out. When a pool is opened for another class, all its blocks are free; a byte left over from the
//!   old class says at most that a block that started there was freed.

use crate::sync::{AtomicU8, Ordering};

/// The state of one block. Zeroed memory is a valid value: never handed out since the arena was mapped.
#[repr(transparent)]
pub(crate) struct BlockState(AtomicU8);

/// The block was never handed out since the arena was mapped.
pub(crate) const NEVER: u8 = 0;
/// The block was freed, and may be anywhere in the allocator since.
pub(crate) const FREED: u8 = 0x40;
/// The program has the block; the low bits hold the class's number.
pub(crate) const LIVE: u8 = 0x80;

impl BlockState {
    /// Never handed out.
    #[cfg(pymalloc_loom)]
    pub(crate) fn new() -> Self {
        Self(AtomicU8::new(NEVER))
    }

    /// Hands a block of class `class` to the program; returns the old state.
    #[inline(always)]
    pub(crate) fn hand_out(&self, class: u8) -> u8 {
        // Relaxed (both): the caller holds the block, and its way here ordered the last free before this.
        let before = self.0.load(Ordering::Relaxed);
        self.0.store(LIVE | class, Ordering::Relaxed);
        before
    }

    /// Takes a block back from the program. If it is not live as a block of class `class`, the error is its state.
    #[inline(always)]
    pub(crate) fn free(&self, class: u8) -> Result<(), u8> {
        self.check(class)?;
        // Relaxed: the block's way to its next holder orders this before the next `hand_out`.
        self.0.store(FREED, Ordering::Relaxed);
        Ok(())
    }

    /// Checks that the block is live as a block of class `class`. If it is not, the error is its state.
    #[inline(always)]
    pub(crate) fn check(&self, class: u8) -> Result<(), u8> {
        // Relaxed: a caller that holds the block, as it claims, is ordered after the store that made it live.
        match self.0.load(Ordering::Relaxed) {
            now if now == LIVE | class => Ok(()),
            now => Err(now),
        }
    }
}
