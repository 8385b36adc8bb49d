//! How much stack traced calls of the allocator need: threads may have only 16 KiB, the least that POSIX allows.
#![cfg(all(feature = "trace", not(windows)))]

mod common;

use std::alloc::{GlobalAlloc, Layout};
use std::hint::black_box;

use common::one_at_a_time;
use common::stack::{depth, with_stack};
use pymalloc::Pymalloc;
use pymalloc::trace::{self, Config};

#[global_allocator]
static GLOBAL: Pymalloc = Pymalloc::new();

/// The most bytes of stack that a traced call takes, according to docs/tracing.md.
const CALL_BYTES: usize = if cfg!(debug_assertions) { 8 << 10 } else { 2 << 10 };
/// The same where there is room for a look-up of a frame's rule or for noting the peak: less than the tracer checks
/// for.
const RARE_BYTES: usize = if cfg!(debug_assertions) { 20 << 10 } else { 6 << 10 };
/// The bytes of stack that `stats()` and `heap_map()` take, according to their documentation.
const STATS_BYTES: usize = 28 << 10;
const HEAP_MAP_BYTES: usize = 36 << 10;

/// Goes every way through the allocator, each from places of its own in the code.
#[inline(never)]
fn allocate_and_free() {
    let layout = |bytes| Layout::from_size_align(bytes, 8).expect("a layout");
    // SAFETY: blocks of the sizes that they are freed with, each freed once.
    unsafe {
        let small = black_box(GLOBAL.alloc(layout(40)));
        let zeroed = black_box(GLOBAL.alloc_zeroed(layout(100)));
        let moved = black_box(GLOBAL.realloc(GLOBAL.alloc(layout(30)), layout(30), 200));
        let large = black_box(GLOBAL.alloc(layout(5000)));
        let large = black_box(GLOBAL.realloc(large, layout(5000), 100_000));
        for bytes in 1..500 {
            GLOBAL.dealloc(black_box(GLOBAL.alloc(layout(bytes))), layout(bytes));
        }
        GLOBAL.dealloc(small, layout(40));
        GLOBAL.dealloc(zeroed, layout(100));
        GLOBAL.dealloc(moved, layout(200));
        GLOBAL.dealloc(large, layout(100_000));
    }
}

#[test]
fn a_traced_call_needs_little_stack_wherever_there_is_little() {
    let _one = one_at_a_time();
    let nothing = depth(1 << 20, || ());
    trace::start(Config::new().frames(256).keep_peak()).expect("starts");
    let first = depth(1 << 20, allocate_and_free) - nothing;
    let again = depth(1 << 20, allocate_and_free) - nothing;
    trace::stop();
    println!("{first} bytes of stack at first, {again} once the frames are known");
    assert!(first <= RARE_BYTES, "{first} bytes");
    assert!(again <= CALL_BYTES, "{again} bytes");
}

#[test]
fn threads_with_the_smallest_stack_are_traced() {
    let _one = one_at_a_time();
    for config in [Config::new(), Config::new().frames(256).keep_peak(), Config::new().sample_every(100)] {
        trace::start(config).expect("starts");
        for _ in 0..10 {
            with_stack(16 << 10, allocate_and_free);
        }
        // A block is recorded even where there was no room to look up a frame.
        with_stack(16 << 10, || {
            let kept = black_box(GLOBAL.alloc_one());
            assert!(config != Config::new() || trace::traced_memory().bytes_live > 0);
            GLOBAL.free_one(kept);
        });
        trace::stop();
    }
}

trait One {
    fn alloc_one(&self) -> *mut u8;
    fn free_one(&self, block: *mut u8);
}

impl One for Pymalloc {
    fn alloc_one(&self) -> *mut u8 {
        // SAFETY: a layout of some bytes.
        unsafe { self.alloc(Layout::new::<[u64; 5]>()) }
    }

    fn free_one(&self, block: *mut u8) {
        // SAFETY: a block of `alloc_one`.
        unsafe { self.dealloc(block, Layout::new::<[u64; 5]>()) }
    }
}

#[test]
fn statistics_need_as_much_stack_as_their_documentation_says() {
    let _one = one_at_a_time();
    let nothing = depth(1 << 20, || ());
    let of = |what: &str, body: fn(), bound: usize| {
        let bytes = depth(1 << 20, body) - nothing;
        println!("{what}: {bytes} bytes of stack");
        assert!(bytes <= bound, "{what}: {bytes} bytes of stack");
    };
    // The result lies on the caller's stack.
    of("stats", || _ = black_box(pymalloc::stats()), STATS_BYTES);
    of("allocated_blocks", || assert!(black_box(pymalloc::allocated_blocks()) > 0), STATS_BYTES);
    of("heap_map", || drop(black_box(pymalloc::heap_map())), HEAP_MAP_BYTES);
}
