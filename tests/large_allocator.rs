//! `Pymalloc::with_large`: requests that fit no class go to the large allocator, and no others do.
#![cfg(not(pymalloc_bypass))]

use std::alloc::{GlobalAlloc, Layout, System, alloc, alloc_zeroed, dealloc, realloc};
use std::cell::Cell;
use std::hint::black_box;

use pymalloc::{Pymalloc, SMALL_MAX_BYTES, class_bytes};

#[global_allocator]
static GLOBAL: Pymalloc<Counting> = Pymalloc::with_large(Counting);

/// Calls that reached the large allocator from this thread, and the layout of the last one.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Calls {
    alloc: usize,
    alloc_zeroed: usize,
    realloc: usize,
    dealloc: usize,
    last: Option<Layout>,
}

const NONE: Calls = Calls { alloc: 0, alloc_zeroed: 0, realloc: 0, dealloc: 0, last: None };

thread_local! {
    // Counted per thread, so that the test harness and the other tests do not count.
    static CALLS: Cell<Calls> = const { Cell::new(NONE) };
}

fn count(layout: Layout, step: fn(&mut Calls)) {
    let mut calls = CALLS.get();
    step(&mut calls);
    calls.last = Some(layout);
    CALLS.set(calls);
}

struct Counting;

// SAFETY: forwards to `System`.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout, |calls| calls.alloc += 1);
        // SAFETY: the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout, |calls| calls.alloc_zeroed += 1);
        // SAFETY: the caller's.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, new_bytes: usize) -> *mut u8 {
        count(layout, |calls| calls.realloc += 1);
        // SAFETY: the caller's.
        unsafe { System.realloc(start, layout, new_bytes) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        count(layout, |calls| calls.dealloc += 1);
        // SAFETY: the caller's.
        unsafe { System.dealloc(start, layout) }
    }
}

/// The calls that reached the large allocator while `work` ran.
fn calls_of<T>(work: impl FnOnce() -> T) -> (T, Calls) {
    CALLS.set(NONE);
    let result = work();
    (result, CALLS.get())
}

fn layout(bytes: usize, align: usize) -> Layout {
    Layout::from_size_align(bytes, align).expect("valid")
}

#[test]
fn only_what_fits_no_class_reaches_it() {
    let (mut small, mut large) = (0, 0);
    for align in (0..=12).map(|shift| 1 << shift) {
        for bytes in 1..=1100 {
            let wanted = layout(bytes, align);
            // SAFETY: the size is not 0, and the block is freed with its layout.
            let ((), calls) = calls_of(|| unsafe { dealloc(black_box(alloc(wanted)), wanted) });
            // SAFETY: as above.
            let ((), zeroed) = calls_of(|| unsafe { dealloc(black_box(alloc_zeroed(wanted)), wanted) });
            if class_bytes(wanted).is_some() {
                small += 1;
                assert_eq!((calls, zeroed), (NONE, NONE), "{wanted:?}");
                continue;
            }
            large += 1;
            // The layout arrives as requested, not rounded.
            let freed = Calls { dealloc: 1, last: Some(wanted), ..NONE };
            assert_eq!(calls, Calls { alloc: 1, ..freed }, "{wanted:?}");
            assert_eq!(zeroed, Calls { alloc_zeroed: 1, ..freed }, "{wanted:?}");
        }
    }
    // 512 sizes fit with each alignment up to 512.
    assert_eq!(small, 10 * SMALL_MAX_BYTES);
    assert_eq!(large, 13 * 1100 - small);
}

#[test]
fn realloc_across_the_border_uses_both() {
    let (small, large, larger) = (layout(SMALL_MAX_BYTES, 8), layout(600, 8), layout(6000, 8));
    // SAFETY: no size is 0; each step reallocates the block of the step before, with that block's layout.
    unsafe {
        let (start, calls) = calls_of(|| black_box(alloc(small)));
        assert_eq!(calls, NONE);
        start.write_bytes(0xA7, small.size());

        let (start, calls) = calls_of(|| black_box(realloc(start, small, large.size())));
        assert_eq!(calls, Calls { alloc: 1, last: Some(large), ..NONE });
        assert!((0..small.size()).all(|at| start.add(at).read() == 0xA7));

        let (start, calls) = calls_of(|| black_box(realloc(start, large, larger.size())));
        assert_eq!(calls, Calls { realloc: 1, last: Some(large), ..NONE });

        let (start, calls) = calls_of(|| black_box(realloc(start, larger, small.size())));
        assert_eq!(calls, Calls { dealloc: 1, last: Some(larger), ..NONE });
        assert!((0..small.size()).all(|at| start.add(at).read() == 0xA7));

        let ((), calls) = calls_of(|| dealloc(start, small));
        assert_eq!(calls, NONE);
    }
}

#[test]
fn it_can_be_asked_for() {
    let (large, one) = (layout(600, 8), layout(600, 8));
    // SAFETY: the size is not 0; the block is freed by the allocator that gave it.
    let ((), calls) = calls_of(|| unsafe { GLOBAL.large().dealloc(black_box(GLOBAL.large().alloc(large)), one) });
    assert_eq!(calls, Calls { alloc: 1, dealloc: 1, last: Some(large), ..NONE });
    // A `Pymalloc` that is made at run time works, too.
    assert_eq!(*Pymalloc::with_large(black_box(7)).large(), 7);
}

#[test]
fn collections_of_small_blocks_do_not_reach_it() {
    let (boxes, calls) = calls_of(|| {
        let mut boxes: [Option<Box<[u64; 8]>>; 1000] = [const { None }; 1000];
        for (number, place) in (0..).zip(&mut boxes) {
            *place = Some(Box::new([number; 8]));
        }
        boxes
    });
    assert_eq!(calls, NONE);
    for (number, place) in (0..).zip(boxes) {
        assert_eq!(place.as_deref(), Some(&[number; 8]));
    }
}
