//! A byte a block: whether the program has it.
//!
//! # Protocol
//! - Who hands a block out holds it alone: [`BlockState::hand_out`] reads what it was and stores that it is live.
//! - Who frees it reads that it is live, and stores that it is free: [`BlockState::free`].
//! - A block goes from the thread that freed it to the one that hands it out next by a magazine of its own, by a door,
//!   or by the remote bits and their count. Each of these orders the free before the next `hand_out`: so plain accesses
//!   will do, in a program that frees each block once, and no order is needed here.
//!
//! Reading and storing are two steps, not one exchange: on x86-64 an exchange waits for all stores before it. So of two
//! frees of one block *at the same instant* both may find it live. The block is then in two caches, and the second of
//! them that hands it out finds that it is live already; or it comes home twice, which the pool finds.
//!
//! # Invariants
//! - *No false alarm*: in a program that frees each block once, `free` finds the block live, and `hand_out` finds it
//!   free.
//! - *One at a time*: of two calls of `free` for a block that are ordered, the second is refused, unless the block was
//!   handed out in between; of two calls of `hand_out`, alike.
//! - *Start*: what is live is the start of a block of that class, in a pool of that class: only such are handed out.
//!   When a pool is opened for another class, all its blocks are free; what is left in the bytes says at most that a
//!   block that started there was freed.

use crate::sync::{AtomicU8, Ordering};

/// The state of one block. Zeroed memory is a valid value: never handed out since the arena was mapped.
#[repr(transparent)]
pub(crate) struct BlockState(AtomicU8);

/// What a byte says. The class's number is in the low bits of a live one.
pub(crate) const NEVER: u8 = 0;
/// Freed, wherever the block is since.
pub(crate) const FREED: u8 = 0x40;
/// With the program.
pub(crate) const LIVE: u8 = 0x80;

impl BlockState {
    /// Never handed out.
    #[cfg(pymalloc_loom)]
    pub(crate) fn new() -> Self {
        Self(AtomicU8::new(NEVER))
    }

    /// The block of class `class` goes to the program; returns what it was.
    #[inline(always)]
    pub(crate) fn hand_out(&self, class: u8) -> u8 {
        // Relaxed (both): the caller holds the block, and its way here ordered the last free before this.
        let before = self.0.load(Ordering::Relaxed);
        self.0.store(LIVE | class, Ordering::Relaxed);
        before
    }

    /// The block of class `class` comes from the program; or else returns what it was.
    #[inline(always)]
    pub(crate) fn free(&self, class: u8) -> Result<(), u8> {
        self.check(class)?;
        // Relaxed: the block's way to its next holder orders this before the next `hand_out`.
        self.0.store(FREED, Ordering::Relaxed);
        Ok(())
    }

    /// Whether the program has the block, as one of class `class`; else what it is.
    #[inline(always)]
    pub(crate) fn check(&self, class: u8) -> Result<(), u8> {
        // Relaxed: the caller claims to hold the block: then it was ordered after the store that said so.
        match self.0.load(Ordering::Relaxed) {
            now if now == LIVE | class => Ok(()),
            now => Err(now),
        }
    }
}
