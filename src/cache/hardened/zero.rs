//! Freed blocks are cleared, and checked when they leave the quarantine.
//!
//! A processor can't predict the order of sizes, and a wrong prediction costs more than the stores. So for blocks of up
//! to [`SHORT_BYTES_MAX`], no branch depends on the size, except one for the smallest. Four pieces cover the block; in
//! a short one they overlap. The C library's `memset` clears longer blocks, with the widest stores that the machine
//! has.

use core::ptr::NonNull;

use crate::base::size_class::SizeClass;

/// The unit of reads and writes: a register of x86-64 and aarch64.
type Piece = [u64; 2];
const PIECE_BYTES: usize = size_of::<Piece>();
/// Pieces that clear a short block.
const PIECES: usize = 4;
const SHORT_BYTES_MAX: usize = PIECES * PIECE_BYTES;

/// Whether blocks of `class` are cleared by a call.
#[inline(always)]
pub(crate) fn is_long(class: SizeClass) -> bool {
    class.block_bytes() > SHORT_BYTES_MAX
}

/// Clears a block of `class`.
///
/// # Safety
/// It is the caller's.
#[inline(always)]
pub(crate) unsafe fn clear(class: SizeClass, block: NonNull<u8>) {
    if is_long(class) {
        // SAFETY: the caller's block.
        return unsafe { block.write_bytes(0, class.block_bytes()) };
    }
    let Some(last) = class.block_bytes().checked_sub(PIECE_BYTES) else {
        // SAFETY: blocks have 8 bytes at least, and are aligned to them.
        return unsafe { block.cast::<u64>().write(0) };
    };
    for offset in (0..PIECES).map(|number| last.min(number * PIECE_BYTES)) {
        // SAFETY: inside the caller's block.
        unsafe { block.add(offset).cast::<Piece>().write_unaligned([0; 2]) };
    }
}

/// Whether every byte of `blocks`, which are of `class`, is zero.
///
/// # Safety
/// They are the caller's, and every byte of them was written.
#[inline(always)]
pub(crate) unsafe fn are_clear(class: SizeClass, blocks: impl Iterator<Item = NonNull<u8>> + Clone) -> bool {
    let mut joined = [0; 2];
    let mut join = |[one, other]: Piece| joined = [joined[0] | one, joined[1] | other];
    let Some(last) = class.block_bytes().checked_sub(PIECE_BYTES) else {
        // SAFETY: blocks have 8 bytes at least, and are aligned to them.
        blocks.for_each(|block| join([unsafe { block.cast::<u64>().read() }, 0]));
        return joined == [0; 2];
    };
    // The first piece of all blocks, then the second: the same few instructions for each, whatever the size.
    let mut offset = 0;
    loop {
        // SAFETY: inside the caller's blocks.
        blocks.clone().for_each(|block| join(unsafe { block.add(offset).cast::<Piece>().read_unaligned() }));
        if offset == last {
            return joined == [0; 2];
        }
        offset = last.min(offset + PIECE_BYTES);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::iter::once;
    use std::vec;

    #[test]
    fn every_byte_of_a_block_is_cleared_and_looked_at_and_no_other() {
        const BESIDE: usize = 8;
        for class in SizeClass::all() {
            let words = class.block_bytes() / 8;
            let mut memory = vec![u64::MAX; BESIDE + words + BESIDE];
            let block = |memory: &mut [u64]| NonNull::from(&mut memory[BESIDE..]).cast::<u8>();
            // SAFETY: inside the vector, and aligned to 8 bytes.
            unsafe { clear(class, block(&mut memory)) };
            for (index, &word) in memory.iter().enumerate() {
                let inside = (BESIDE..BESIDE + words).contains(&index);
                assert_eq!(word, if inside { 0 } else { u64::MAX }, "word {index}, blocks of {words}");
            }
            for bit in (0..words * 64).step_by(8) {
                // SAFETY: as above.
                assert!(unsafe { are_clear(class, once(block(&mut memory))) });
                memory[BESIDE + bit / 64] = 1 << (bit % 64);
                // SAFETY: as above.
                assert!(!unsafe { are_clear(class, once(block(&mut memory))) }, "byte {}, blocks of {words}", bit / 8);
                memory[BESIDE + bit / 64] = 0;
            }
        }
    }
}
