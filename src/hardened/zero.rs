//! Freed blocks are cleared, and looked at again before they are handed out.

use core::ptr::NonNull;

use crate::size_class::SizeClass;

/// Words that are looked at together.
const GROUP: usize = 4;

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
    // Class number `n` has `n + 1` words.
    let (words, last) = (block.cast::<u64>(), class.number());
    let mut joined = 0;
    let mut index = 0;
    // SAFETY: up to the last word; aligned to 8 bytes, as all blocks are.
    let word = |index: usize| unsafe { words.add(index).read() };
    while index + GROUP <= last {
        for number in 0..GROUP {
            joined |= word(index + number);
        }
        index += GROUP;
    }
    // The last words, some perhaps again: fewer branches than counting the rest.
    if last >= GROUP - 1 {
        for number in 0..GROUP {
            joined |= word(last - number);
        }
        return joined;
    }
    while index <= last {
        joined |= word(index);
        index += 1;
    }
    joined
}
