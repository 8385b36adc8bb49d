//! The tracer and `measure` at the same time: neither changes what the other sees. The test compares counts of the
//! whole process, so it runs without libtest, whose threads allocate.

use std::alloc::Layout;
use std::hint::black_box;

use pymalloc::{Pymalloc, measure, trace};

#[global_allocator]
static GLOBAL: Pymalloc = Pymalloc::new();

/// Allocates small, zeroed, large and reallocated blocks; returns those that stay alive.
fn work() -> Vec<Vec<u8>> {
    let mut kept = Vec::new();
    for size in (1..3000).step_by(37) {
        kept.push(vec![1_u8; size]);
        drop(black_box(vec![0_u8; size]));
    }
    let mut grown = Vec::with_capacity(600);
    for byte in 0..200_000_u32 {
        grown.push(byte as u8);
    }
    kept.push(grown);
    kept
}

#[inline(never)]
fn traced_work() -> Vec<Vec<u8>> {
    black_box(work())
}

fn a_measurement_has_the_same_counts_whether_or_not_tracing_is_on() {
    // The first time may attach the thread.
    drop(work());
    let (kept, plain) = measure(work);
    drop(kept);
    trace::start(trace::Config::new()).expect("not tracing yet");
    // The tracer learns rules and names inside the closure; the blocks that it allocates for that must not count.
    let (kept, traced) = measure(|| {
        let kept = traced_work();
        let snapshot = trace::take_snapshot().expect("tracing");
        assert!(snapshot.blocks() > 80);
        drop(snapshot);
        kept
    });
    assert_eq!(traced, plain);
    let (_, freed) = measure(|| drop(kept));
    assert_eq!((freed.blocks_live, freed.bytes_live), (-plain.blocks_live, -plain.bytes_live));
    trace::stop();
}

fn tracing_that_starts_and_stops_while_a_thread_measures_leaves_its_counts_and_its_poison_alone() {
    drop(work());
    let (_, plain) = measure(|| drop(work()));
    let (_, around) = measure(|| {
        trace::start(trace::Config::new()).expect("not tracing yet");
        trace::stop();
        // The poison of all caches is gone; this thread's own poison must still send each call to the slow path.
        drop(work());
    });
    assert_eq!(around.blocks_allocated, plain.blocks_allocated + overhead_of_a_session());
    // And the other way round: the end of a measurement does not end the tracing of this thread.
    trace::start(trace::Config::new()).expect("not tracing yet");
    measure(|| ());
    let before = trace::traced_memory().bytes_live;
    let block = black_box(Box::new([7_u8; 100]));
    assert_eq!(trace::traced_memory().bytes_live - before, 100);
    drop(block);
    assert_eq!(trace::traced_memory().bytes_live, before);
    trace::stop();
}

/// The number of blocks that a start and a stop allocate outside of the session, as `measure` counts them.
fn overhead_of_a_session() -> usize {
    let (_, session) = measure(|| {
        trace::start(trace::Config::new()).expect("not tracing yet");
        trace::stop();
    });
    session.blocks_allocated
}

fn a_large_block_that_moves_is_counted_once_by_both() {
    trace::start(trace::Config::new()).expect("not tracing yet");
    let before = trace::traced_memory().bytes_live;
    let layout = Layout::from_size_align(4000, 8).expect("a layout");
    let (block, measured) = measure(|| {
        // SAFETY: sizes above 0; the block is passed with its own layout.
        unsafe {
            let block = std::alloc::alloc(layout);
            black_box(std::alloc::realloc(block, layout, 1 << 20))
        }
    });
    assert!(!block.is_null());
    assert_eq!((measured.blocks_allocated, measured.blocks_live, measured.bytes_live), (2, 1, 1 << 20));
    assert_eq!(trace::traced_memory().bytes_live - before, 1 << 20);
    assert!(trace::traceback_of(block.cast_const()).is_some());
    // SAFETY: the block's present layout.
    unsafe { std::alloc::dealloc(block, Layout::from_size_align(1 << 20, 8).expect("a layout")) };
    assert_eq!(trace::traced_memory().bytes_live, before);
    trace::stop();
}

fn main() {
    a_measurement_has_the_same_counts_whether_or_not_tracing_is_on();
    tracing_that_starts_and_stops_while_a_thread_measures_leaves_its_counts_and_its_poison_alone();
    a_large_block_that_moves_is_counted_once_by_both();
    println!("3 tests of the tracer and of measure at once ... ok");
}
