//! Freed blocks are cleared, and looked at again before they are handed out.
//!
//! Sizes come in no order that a processor could learn, and a wrong guess costs it more than the stores: so up to
//! [`GROUP_BYTES`] no branch depends on the size but one for the smallest. Four pieces cover the block; where it is short, they overlap.

use core::ptr::NonNull;

use crate::size_class::SizeClass;

/// What is read or written at once: a register of x86-64 and aarch64.
type Piece = [u64; 2];
const PIECE_BYTES: usize = size_of::<Piece>();
/// The pieces of a round of the loop.
const GROUP: usize = 4;
const GROUP_BYTES: usize = GROUP * PIECE_BYTES;

/// Shows `piece` the offsets of pieces that cover a block of `class` and nothing else; or returns `false`: it is shorter than a
/// piece.
#[inline(always)]
fn cover(class: SizeClass, mut piece: impl FnMut(usize)) -> bool {
    let Some(last) = class.block_bytes().checked_sub(PIECE_BYTES) else { return false };
    let mut start = 0;
    while start + GROUP_BYTES < class.block_bytes() {
        (0..GROUP).for_each(|number| piece(start + number * PIECE_BYTES));
        start += GROUP_BYTES;
    }
    (0..GROUP - 1).for_each(|number| piece((start + number * PIECE_BYTES).min(last)));
    piece(last);
    true
}

/// Clears a block of `class`.
///
/// # Safety
/// It is the caller's.
#[inline(always)]
pub(crate) unsafe fn clear(block: NonNull<u8>, class: SizeClass) {
    // SAFETY: inside the caller's block.
    let covered = cover(class, |offset| unsafe { block.add(offset).cast::<Piece>().write_unaligned([0; 2]) });
    if !covered {
        // SAFETY: blocks have 8 bytes at least, and are aligned to them.
        unsafe { block.cast::<u64>().write(0) };
    }
}

/// All words of a block of `class`, joined: 0 if and only if every byte is zero.
///
/// # Safety
/// It is the caller's, and every byte of it was written, or is as it was mapped.
#[inline(always)]
pub(crate) unsafe fn joined(block: NonNull<u8>, class: SizeClass) -> u64 {
    let mut joined = [0; 2];
    let covered = cover(class, |offset| {
        // SAFETY: inside the caller's block.
        let [one, other] = unsafe { block.add(offset).cast::<Piece>().read_unaligned() };
        joined = [joined[0] | one, joined[1] | other];
    });
    if !covered {
        // SAFETY: blocks have 8 bytes at least, and are aligned to them.
        return unsafe { block.cast::<u64>().read() };
    }
    joined[0] | joined[1]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;

    #[test]
    fn every_byte_of_a_block_is_cleared_and_looked_at_and_no_other() {
        const BESIDE: usize = 8;
        for class in SizeClass::all() {
            let words = class.block_bytes() / 8;
            let mut memory = vec![u64::MAX; BESIDE + words + BESIDE];
            let block = |memory: &mut [u64]| NonNull::from(&mut memory[BESIDE..]).cast::<u8>();
            // SAFETY: inside the vector, and aligned to 8 bytes.
            unsafe { clear(block(&mut memory), class) };
            for (index, &word) in memory.iter().enumerate() {
                let inside = (BESIDE..BESIDE + words).contains(&index);
                assert_eq!(word, if inside { 0 } else { u64::MAX }, "word {index}, blocks of {words}");
            }
            for bit in (0..words * 64).step_by(8) {
                // SAFETY: as above.
                assert_eq!(unsafe { joined(block(&mut memory), class) }, 0);
                memory[BESIDE + bit / 64] = 1 << (bit % 64);
                // SAFETY: as above.
                assert_ne!(unsafe { joined(block(&mut memory), class) }, 0, "byte {}, blocks of {words}", bit / 8);
                memory[BESIDE + bit / 64] = 0;
            }
        }
    }
}
