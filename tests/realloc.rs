//! A realloc keeps the address within a class, and always keeps the contents.
#![cfg(not(pymalloc_bypass))]

mod common;

use std::alloc::{Layout, alloc, dealloc, realloc};
use std::hint::black_box;
use std::slice::from_raw_parts;

use pymalloc::{Pymalloc, SMALL_MAX_BYTES, class_bytes};

#[global_allocator]
static GLOBAL: Pymalloc = Pymalloc::new();

fn layout(bytes: usize, align: usize) -> Layout {
    Layout::from_size_align(bytes, align).expect("valid")
}

/// Reallocates a block full of distinct bytes, and checks the contents. Returns whether the block moved.
fn moves(old: Layout, new_bytes: usize) -> bool {
    let contents: Vec<u8> = (0..old.size()).map(|at| (at * 7 + at / 256) as u8).collect();
    // SAFETY: no size here is 0, writes and reads stay within the smaller size, and the block is
    // freed with the layout it has by then.
    unsafe {
        let start = black_box(alloc(old));
        start.copy_from_nonoverlapping(contents.as_ptr(), old.size());
        let moved = black_box(realloc(start, old, new_bytes));
        assert!(!moved.is_null() && moved.addr().is_multiple_of(old.align()));
        let kept = old.size().min(new_bytes);
        assert_eq!(from_raw_parts(moved, kept), &contents[..kept], "{old:?} to {new_bytes}");
        dealloc(moved, layout(new_bytes, old.align()));
        moved != start
    }
}

#[test]
fn address_stays_if_and_only_if_the_class_does() {
    for align in [1, 8, 16, 64, 512] {
        for old_bytes in 1..=SMALL_MAX_BYTES {
            let old = layout(old_bytes, align);
            // Each size of the class and of both neighbouring classes, and some distant sizes.
            let near = old_bytes.saturating_sub(2 * align.max(8)).max(1)..=old_bytes + 16;
            for new_bytes in near.chain([1, 100, SMALL_MAX_BYTES]) {
                let same_class = class_bytes(old) == class_bytes(layout(new_bytes, align));
                assert_eq!(!moves(old, new_bytes), same_class, "{old:?} to {new_bytes}");
            }
        }
    }
}

#[test]
fn contents_survive_the_way_out_of_the_classes_and_back() {
    for align in [1, 16, 128] {
        for small in [1, 8, 100, 384, SMALL_MAX_BYTES] {
            for large in [SMALL_MAX_BYTES + 1, 1000, 4096, 100_000] {
                assert!(moves(layout(small, align), large), "a pool served {large} bytes");
                assert!(moves(layout(large, align), small), "{small} bytes stayed outside the pools");
            }
        }
    }
}

#[test]
fn a_growing_vector_keeps_its_elements() {
    let mut grown = Vec::new();
    for element in 0..100_000_u64 {
        grown.push(element);
    }
    for length in [50_000, 65, 64, 63, 1] {
        grown.truncate(length);
        grown.shrink_to_fit();
        assert!(grown.iter().copied().eq(0..length as u64));
    }
    common::assert_sound();
}
