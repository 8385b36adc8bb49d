//! A byte a block: whether the program has it.
//!
//! # Protocol
//! - Who hands a block out holds it alone, and says so with a plain store ([`BlockState::hand_out`]).
//! - Who frees it exchanges the byte ([`BlockState::free`]): of several frees of one block, whichever threads they come
//!   from and however close together, exactly one finds it live.
//! - A block goes from the thread that freed it to the one that hands it out next by a magazine of its own, by a door, or
//!   by the remote bits and their count. Each of these orders the exchange before the next store: so no ordering is
//!   needed here, and no store of `hand_out` can be overwritten by the exchange of an earlier, good free.
//!
//! # Invariants
//! - *One winner*: between two calls of `hand_out` for a block, at most one call of `free` returns what is live.
//! - A byte of a pool that no set owns is not live. So when the pool is opened for another class, whose blocks have other
//!   bytes, none of these is live, and what is left in them says at most that a block of another class was freed.

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
        // Relaxed (both): the caller holds the block, and its way here ordered the last exchange before this.
        let before = self.0.load(Ordering::Relaxed);
        self.0.store(LIVE | class, Ordering::Relaxed);
        before
    }

    /// The block of class `class` comes from the program; returns whether it was there, or else what it was.
    #[inline(always)]
    pub(crate) fn free(&self, class: u8) -> Result<(), u8> {
        // Relaxed: an exchange alone decides between two frees; the block's contents are ordered by its way (above).
        match self.0.swap(FREED, Ordering::Relaxed) {
            before if before == LIVE | class => Ok(()),
            before => Err(before),
        }
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
