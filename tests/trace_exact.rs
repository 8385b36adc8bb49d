//! The tracer's counts are exact to the byte. This test runs without libtest, so that no other thread allocates.

#[cfg(not(feature = "trace"))]
fn main() {}

#[cfg(feature = "trace")]
#[global_allocator]
static GLOBAL: pymalloc::Pymalloc = pymalloc::Pymalloc::new();

#[cfg(feature = "trace")]
fn main() {
    use std::hint::black_box;

    use pymalloc::trace::{self, By, Config, TracedMemory};

    assert_eq!(trace::traced_memory(), TracedMemory::default());
    trace::start(Config::new()).expect("starts");
    let start = trace::traced_memory().bytes_live;
    let above = || {
        let traced = trace::traced_memory();
        (traced.bytes_live - start, traced.bytes_peak - start)
    };
    let large = black_box(vec![1_u8; 1 << 20]);
    assert_eq!(above(), (1 << 20, 1 << 20));
    drop(large);
    assert_eq!(above(), (0, 1 << 20));
    trace::reset_peak();
    assert_eq!(above(), (0, 0));
    let small: Vec<Box<u32>> = (0..100).map(Box::new).collect();
    assert_eq!(above(), (100 * 12, 100 * 12));
    drop(small);
    assert_eq!(above(), (0, 100 * 12));
    let kept = black_box(Box::new(5));
    trace::clear();
    assert_eq!(trace::traced_memory(), TracedMemory::default());
    assert!(trace::is_tracing());
    assert_eq!(trace::traceback_of(&raw const *kept), None);
    drop(kept);
    assert_eq!(trace::traced_memory(), TracedMemory::default(), "a block that was cleared is freed unnoticed");
    trace::stop();
    assert_eq!(trace::traced_memory(), TracedMemory::default());
    assert_eq!(trace::overhead_bytes(), 0, "the tracer gives all of its memory back");

    // The tracer's own blocks are overhead, and not traced.
    trace::start(Config::new()).expect("starts");
    let known = black_box((vec![1_u8; 3000], String::from("known")));
    let (traced, overhead) = (trace::traced_memory(), trace::overhead_bytes());
    let mut heard = Vec::new();
    let snapshot = trace::take_snapshot_with(|done, total| heard.push((done, total))).expect("tracing");
    assert_eq!(trace::traced_memory(), traced, "neither the snapshot nor its progress is traced");
    assert!(heard.len() > 1 && heard.last().is_some_and(|&(done, total)| done == total), "{heard:?}");
    assert_eq!(snapshot.bytes(), traced.bytes_live);
    let names: usize = snapshot.statistics(By::Line).iter().map(|row| row.to_string().len()).sum();
    let with_snapshot = trace::overhead_bytes();
    assert!(with_snapshot > overhead + names, "names and the snapshot are overhead");
    drop(snapshot);
    assert!(trace::overhead_bytes() < with_snapshot, "a snapshot is overhead while it lives");
    drop(known);
    trace::stop();
    assert_eq!(trace::overhead_bytes(), 0);
    println!("traced memory is exact and has a peak that can be reset, and the tracer is not in it: ok");
}
