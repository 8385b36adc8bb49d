//! Freed blocks are cleared, and looked at again before they are handed out.

use core::ptr::NonNull;

use crate::size_class::SizeClass;

/// Clears a block of `class`.
///
/// # Safety
/// It is the caller's.
#[inline(always)]
pub(crate) unsafe fn clear(block: NonNull<u8>, class: SizeClass) {
    // SAFETY: the caller's block.
    unsafe { block.write_bytes(0, class.block_bytes()) };
}

/// All words of a block of `class`, joined: 0 if and only if every byte is zero.
///
/// # Safety
/// It is the caller's, and every byte of it was written, or is as it was mapped.
#[inline(always)]
pub(crate) unsafe fn joined(block: NonNull<u8>, class: SizeClass) -> u64 {
    let words = block.cast::<u64>();
    let mut joined = 0;
    for index in 0..=class.number() {
        // SAFETY: class number `n` has `n + 1` words, aligned to 8 bytes, as all blocks are.
        joined |= unsafe { words.add(index).read() };
    }
    joined
}
