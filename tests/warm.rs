//! A thread that ends leaves some blocks in its cache for the next one.
#![cfg(not(any(pymalloc_bypass, feature = "hardened")))]

use std::alloc::Layout;
use std::hint::black_box;
use std::thread;

use pymalloc::{Pymalloc, class_number, stats};

#[global_allocator]
static GLOBAL: Pymalloc = Pymalloc::new();

/// Nothing else in this program has blocks of this size.
type Rare = [u64; 61];

#[test]
fn the_next_thread_finds_a_block_of_the_last_ones() {
    let class = class_number(Layout::new::<Rare>()).expect("a small size");
    thread::spawn(|| drop(black_box(Box::new([0_u64; 61])))).join().expect("it does not panic");
    let left = stats().classes[class].blocks_cached;
    assert!(left > 0, "{left} blocks");
}
