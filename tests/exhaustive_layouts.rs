//! Every size up to 1100 bytes with every alignment up to 4096.

mod common;

use std::alloc::{Layout, alloc, alloc_zeroed, dealloc, realloc};
use std::hint::black_box;
use std::slice::from_raw_parts;

use pymalloc::{Pymalloc, SMALL_MAX_BYTES, class_bytes, class_number};

#[global_allocator]
static GLOBAL: Pymalloc = Pymalloc::new();

const LARGEST_BYTES: usize = 1100;
const LARGEST_ALIGN: usize = 4096;

fn every_layout() -> impl Iterator<Item = Layout> {
    let aligns = (0..=LARGEST_ALIGN.ilog2()).map(|shift| 1 << shift);
    aligns.flat_map(|align| (1..=LARGEST_BYTES).map(move |bytes| Layout::from_size_align(bytes, align).expect("valid")))
}

fn resized(layout: Layout, bytes: usize) -> Layout {
    Layout::from_size_align(bytes, layout.align()).expect("valid")
}

/// A block of `layout`, filled with `fill`.
fn filled(layout: Layout, fill: u8) -> *mut u8 {
    // SAFETY: no layout here has size 0.
    let start = black_box(unsafe { alloc(layout) });
    assert!(!start.is_null(), "{layout:?}");
    assert!(start.addr().is_multiple_of(layout.align()), "{start:?} for {layout:?}");
    // SAFETY: the block is that long, and ours.
    unsafe { start.write_bytes(fill, layout.size()) };
    start
}

fn holds(start: *const u8, bytes: usize, fill: u8) -> bool {
    // SAFETY: the callers pass blocks that are at least that long and written.
    let held = unsafe { from_raw_parts(start, bytes) };
    held == &[fill; 2 * LARGEST_BYTES][..bytes]
}

fn free(start: *mut u8, layout: Layout) {
    // SAFETY: the callers pass what `filled` or a realloc gave them for this layout, once.
    unsafe { dealloc(black_box(start), layout) };
}

#[test]
fn class_is_the_size_rounded_up_to_the_alignment() {
    for layout in every_layout() {
        // The rule of the documentation, computed in a simple, slow way.
        let rounded = match (layout.size(), layout.align()) {
            (56, 8) if cfg!(all(target_env = "musl", target_arch = "x86_64")) => 64,
            (size, align) => size.next_multiple_of(align.max(8)),
        };
        let expected = (rounded <= SMALL_MAX_BYTES).then_some(rounded);
        assert_eq!(class_bytes(layout), expected, "{layout:?}");
        assert_eq!(class_number(layout), expected.map(|bytes| bytes / 8 - 1), "{layout:?}");
    }
}

#[test]
fn blocks_are_aligned_and_do_not_overlap() {
    for layout in every_layout() {
        let fills = [0x11, 0x22, 0x33];
        let blocks = fills.map(|fill| filled(layout, fill));
        for (start, fill) in blocks.into_iter().zip(fills) {
            assert!(holds(start, layout.size(), fill), "{layout:?}");
            free(start, layout);
        }
    }
}

#[test]
fn realloc_to_a_neighbour_keeps_the_contents() {
    for layout in every_layout() {
        let bytes = layout.size();
        for new_bytes in [
            1,
            bytes.saturating_sub(8).max(1),
            bytes.saturating_sub(1).max(1),
            bytes + 1,
            bytes + 8,
            2 * bytes,
            SMALL_MAX_BYTES,
            SMALL_MAX_BYTES + 1,
        ] {
            let start = filled(layout, 0x5A);
            // SAFETY: `start` is a block of this layout, and the new size is not 0.
            let moved = black_box(unsafe { realloc(start, layout, new_bytes) });
            let new = resized(layout, new_bytes);
            assert!(!moved.is_null(), "{layout:?} to {new_bytes}");
            assert!(moved.addr().is_multiple_of(layout.align()), "{layout:?} to {new_bytes}");
            assert!(holds(moved, bytes.min(new_bytes), 0x5A), "{layout:?} to {new_bytes}");
            // The program may use all of the new size.
            // SAFETY: the block is that long, and ours.
            unsafe { moved.write_bytes(0xC3, new_bytes) };
            free(moved, new);
        }
    }
}

#[test]
fn alloc_zeroed_is_zero_after_dirty_reuse() {
    for layout in every_layout() {
        free(filled(layout, 0xFF), layout);
        // SAFETY: the size is not 0.
        let start = black_box(unsafe { alloc_zeroed(layout) });
        assert!(!start.is_null(), "{layout:?}");
        assert!(start.addr().is_multiple_of(layout.align()), "{start:?} for {layout:?}");
        assert!(holds(start, layout.size(), 0), "{layout:?}");
        free(start, layout);
    }
    common::assert_sound();
}
