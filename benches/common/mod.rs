//! What the benchmarks share. Each benchmark calls this crate and the system's allocator directly, in the same run;
//! criterion's own memory comes from the system.
#![allow(
    dead_code,
    unused_macros,
    unused_imports,
    reason = "every benchmark that includes this file uses its own part of it"
)]

use std::alloc::{GlobalAlloc, Layout};
use std::hint::black_box;
use std::time::Duration;

use criterion::Criterion;
use pymalloc::Pymalloc;

pub(crate) static PYMALLOC: Pymalloc = Pymalloc::new();

/// Short enough that all benchmarks take less than four minutes. `--measurement-time` and
/// `--sample-size` on the command line override it.
pub(crate) fn criterion() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(1000))
        .configure_from_args()
}

/// Calls a benchmark for both allocators.
macro_rules! for_each_allocator {
    ($bench:ident($($argument:expr),*)) => {
        $bench($($argument,)* "pymalloc", &common::PYMALLOC);
        $bench($($argument,)* "system", &std::alloc::System);
    };
}
pub(crate) use for_each_allocator;

pub(crate) fn layout(bytes: usize) -> Layout {
    Layout::from_size_align(bytes, 8).expect("valid")
}

/// Allocates a block and touches it, as programs do.
pub(crate) fn alloc(allocator: &impl GlobalAlloc, layout: Layout) -> *mut u8 {
    // SAFETY: the benchmarks ask for sizes that are not 0.
    let start = black_box(unsafe { allocator.alloc(layout) });
    assert!(!start.is_null());
    // SAFETY: the block has a byte.
    unsafe { start.write(1) };
    start
}

pub(crate) fn free(allocator: &impl GlobalAlloc, start: *mut u8, layout: Layout) {
    // SAFETY: the benchmarks free what `alloc` gave them for this layout, once.
    unsafe { allocator.dealloc(black_box(start), layout) };
}

/// A pseudorandom number; the sequence is the same in each run.
pub(crate) fn random(state: &mut u64) -> usize {
    // xorshift64
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state as usize
}
