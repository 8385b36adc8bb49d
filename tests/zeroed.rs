//! `alloc_zeroed`: zero whatever was there before, and no work where the OS has zeroed already.
#![cfg(not(pymalloc_bypass))]

mod common;

use std::alloc::{Layout, alloc, alloc_zeroed, dealloc};
use std::ffi::c_void;
use std::hint::black_box;
use std::ptr::null_mut;
use std::slice::from_raw_parts;

use common::{arenas_after_purge, one_at_a_time, rss_bytes};
use pymalloc::{CLASS_COUNT, Pymalloc, SMALL_MAX_BYTES};

#[global_allocator]
static GLOBAL: Pymalloc = Pymalloc::new();

fn layout(bytes: usize) -> Layout {
    Layout::from_size_align(bytes, 8).expect("valid")
}

fn zeroed(layout: Layout) -> *mut u8 {
    // SAFETY: no size here is 0.
    let start = black_box(unsafe { alloc_zeroed(layout) });
    assert!(!start.is_null());
    start
}

fn is_zero(start: *const u8, bytes: usize) -> bool {
    // SAFETY: the callers' blocks are that long, and zeroed blocks are initialised.
    let held = unsafe { from_raw_parts(start, bytes) };
    held == &[0; SMALL_MAX_BYTES][..bytes]
}

fn free_all(blocks: &[*mut u8], layout: Layout) {
    for &start in blocks {
        // SAFETY: the callers' blocks are of this layout and not used again.
        unsafe { dealloc(start, layout) };
    }
}

/// Fills `count` blocks with anything but zeros and frees them.
fn leave_dirt(layout: Layout, count: usize) {
    let blocks: Vec<*mut u8> = (0..count)
        .map(|_| {
            // SAFETY: no size here is 0, and the block is that long.
            unsafe {
                let start = black_box(alloc(layout));
                start.write_bytes(0xFF, layout.size());
                start
            }
        })
        .collect();
    free_all(&blocks, layout);
}

#[test]
fn dirty_blocks_come_back_zero() {
    let _one = one_at_a_time();
    for bytes in (1..=CLASS_COUNT).map(|eighth| 8 * eighth) {
        // The last byte of a class, and the first that its neighbour does not serve.
        for layout in [layout(bytes), layout(bytes - 7)] {
            let count = (1 << 20) / bytes;
            leave_dirt(layout, count);
            let blocks: Vec<*mut u8> = (0..count).map(|_| zeroed(layout)).collect();
            assert!(blocks.iter().all(|&start| is_zero(start, layout.size())), "{layout:?}");
            free_all(&blocks, layout);
        }
    }
    common::assert_sound();
}

#[test]
fn blocks_are_zero_after_a_purge() {
    let _one = one_at_a_time();
    for bytes in [16, 120, SMALL_MAX_BYTES] {
        let layout = layout(bytes);
        let count = (20 << 20) / bytes;
        leave_dirt(layout, count);
        arenas_after_purge();
        let blocks: Vec<*mut u8> = (0..count).map(|_| zeroed(layout)).collect();
        assert!(blocks.iter().all(|&start| is_zero(start, bytes)), "{layout:?}");
        free_all(&blocks, layout);
    }
}

#[test]
fn memory_fresh_from_the_os_is_not_touched() {
    let _one = one_at_a_time();
    const TOTAL_BYTES: usize = 100 << 20;
    let layout = layout(SMALL_MAX_BYTES);
    // Written now, so that the list itself is resident already.
    let mut blocks: Vec<*mut u8> = (0..TOTAL_BYTES / SMALL_MAX_BYTES).map(std::ptr::without_provenance_mut).collect();
    arenas_after_purge();
    let before_bytes = rss_bytes();
    blocks.fill_with(|| zeroed(layout));
    let grown_bytes = rss_bytes().saturating_sub(before_bytes);
    assert!(grown_bytes < TOTAL_BYTES * 3 / 10, "{grown_bytes} of {TOTAL_BYTES} bytes are resident");
    // Blocks that were written would be resident: the reading is to be trusted.
    for &start in &blocks {
        assert!(is_zero(start, SMALL_MAX_BYTES));
        // SAFETY: the block is ours and longer than a byte.
        unsafe { start.write(1) };
    }
    assert!(rss_bytes() - before_bytes >= TOTAL_BYTES * 9 / 10);
    free_all(&blocks, layout);
}

/// What a thread does that has no runtime: its first request of all is for zeros.
extern "C-unwind" fn request_zeros(_: *mut c_void) -> *mut c_void {
    let layout = layout(72);
    let start = zeroed(layout);
    let good = is_zero(start, layout.size());
    // SAFETY: the block is ours and longer than a byte.
    unsafe { start.write(1) };
    free_all(&[start], layout);
    std::ptr::without_provenance_mut(usize::from(good))
}

#[test]
fn a_threads_first_request_may_be_for_zeros() {
    let _one = one_at_a_time();
    // What it gets was in use.
    leave_dirt(layout(72), (4 << 20) / 72);
    pymalloc::flush_thread_cache();
    for _ in 0..10 {
        assert_eq!(on_a_new_thread(request_zeros).addr(), 1, "a block for zeros is not zero");
    }
}

#[cfg(unix)]
fn on_a_new_thread(main: extern "C-unwind" fn(*mut c_void) -> *mut c_void) -> *mut c_void {
    unsafe extern "C-unwind" {
        fn pthread_create(
            thread: *mut libc::pthread_t,
            attributes: *const libc::pthread_attr_t,
            main: extern "C-unwind" fn(*mut c_void) -> *mut c_void,
            argument: *mut c_void,
        ) -> libc::c_int;
    }
    let (mut thread, mut result) = (std::mem::MaybeUninit::uninit(), null_mut());
    // SAFETY: a function that takes no argument, on a thread that is joined; its handle is written when it was made.
    unsafe {
        assert_eq!(pthread_create(thread.as_mut_ptr(), std::ptr::null(), main, null_mut()), 0);
        assert_eq!(libc::pthread_join(thread.assume_init(), &raw mut result), 0);
    }
    result
}

#[cfg(windows)]
fn on_a_new_thread(main: extern "C-unwind" fn(*mut c_void) -> *mut c_void) -> *mut c_void {
    let [result] = common::windows_threads::run_and_join(main, [null_mut()]);
    result
}
