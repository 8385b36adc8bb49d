//! The layout of the bitmaps of an arena's pools in the arena's metadata.
//!
//! A pool of 8-byte blocks needs a bitmap of 8 cache lines; a pool of most other classes needs one line. So the first
//! lines of all pools lie side by side, then all second lines, and so on. A row of lines fills an OS page. Rows that no
//! class in the arena needs are never touched, and no two pools share a cache line.

use crate::base::config::{BITMAP_WORDS_MAX, CACHE_LINE_BYTES, POOLS_PER_ARENA};

/// Words of a cache line.
pub(crate) const WORDS_PER_LINE: usize = CACHE_LINE_BYTES / size_of::<u64>();
/// Rows of bitmap lines: as many as the class with the smallest blocks needs.
const LINE_ROWS: usize = BITMAP_WORDS_MAX / WORDS_PER_LINE;

/// A cache line of a bitmap.
#[repr(C, align(64))]
pub(crate) struct Line<W>([W; WORDS_PER_LINE]);

const _: () = assert!(size_of::<Line<u64>>() == CACHE_LINE_BYTES);

/// The bitmaps of all pools of an arena, by rows of lines.
pub(crate) type Bitmaps<W> = [[Line<W>; POOLS_PER_ARENA]; LINE_ROWS];

/// Bytes from word 0 of a pool's bitmap to its word `word`.
#[inline(always)]
pub(crate) const fn word_offset_bytes(word: usize) -> usize {
    const ROW_BYTES: u32 = size_of::<[Line<u64>; POOLS_PER_ARENA]>() as u32;
    const LINE: u32 = WORDS_PER_LINE as u32;
    // 32-bit numbers: their masks encode shorter.
    let word = word as u32;
    (word / LINE * ROW_BYTES + word % LINE * size_of::<u64>() as u32) as usize
}
