//! A library with an allocator of its own, which `tests/plugin.rs` and `tests/plugin_windows.rs` open and close.

use std::cell::{Cell, RefCell};
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

/// Frees and allocates when its thread ends, and says so.
struct Last(Vec<Box<u64>>);

impl Drop for Last {
    fn drop(&mut self) {
        let freed = self.0.len();
        self.0.clear();
        let sum = plugin_sum(freed as u64);
        eprintln!("plugin: {freed} blocks freed at the end, and a sum of {sum}");
    }
}

thread_local! {
    static LAST: RefCell<Last> = const { RefCell::new(Last(Vec::new())) };
}

/// Has so many blocks freed, and as many allocated, when the calling thread ends.
#[unsafe(no_mangle)]
pub extern "C" fn plugin_hold(count: u64) {
    LAST.with_borrow_mut(|last| last.0.extend((0..count).map(Box::new)));
}
