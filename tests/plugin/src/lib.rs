//! A library with an allocator of its own, which `tests/plugin.rs` opens and closes.

use std::cell::Cell;
use std::hint::black_box;

use pymalloc::Pymalloc;

#[global_allocator]
static GLOBAL: Pymalloc = Pymalloc::new();

thread_local! {
    /// More than the loader has room for in the blocks of threads that run already.
    static OWN: Cell<[u64; 512]> = const { Cell::new([1; 512]) };
}

/// Allocates so many blocks, and frees them; returns the sum of the numbers in them, from 1.
#[unsafe(no_mangle)]
pub extern "C" fn plugin_sum(count: u64) -> u64 {
    let boxes: Vec<Box<u64>> = (1..=count).map(|number| black_box(Box::new(number))).collect();
    let own = black_box(OWN.get());
    boxes.iter().map(|number| **number * own[**number as usize % own.len()]).sum()
}

/// Blocks in the library's hands.
#[unsafe(no_mangle)]
pub extern "C" fn plugin_blocks() -> usize {
    pymalloc::allocated_blocks()
}
