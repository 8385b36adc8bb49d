//! What the tracer counts is exact to the byte. Without libtest, so that no other thread allocates.

#[cfg(not(feature = "trace"))]
fn main() {}

#[cfg(feature = "trace")]
#[global_allocator]
static GLOBAL: pymalloc::Pymalloc = pymalloc::Pymalloc::new();

#[cfg(feature = "trace")]
fn main() {
    use std::hint::black_box;

    use pymalloc::trace::{self, By, Config};

    assert_eq!(trace::traced_memory(), (0, 0));
    trace::start(Config::new()).expect("starts");
    let (start, _) = trace::traced_memory();
    let above = || {
        let (current, peak) = trace::traced_memory();
        (current - start, peak - start)
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
    assert_eq!(trace::traced_memory(), (0, 0));
    assert!(trace::is_tracing());
    assert_eq!(trace::traceback_of(&raw const *kept), None);
    drop(kept);
    assert_eq!(trace::traced_memory(), (0, 0), "a block that was cleared is freed unnoticed");
    trace::stop();
    assert_eq!(trace::traced_memory(), (0, 0));
    assert_eq!(trace::overhead(), 0, "the tracer gives all of its memory back");

    // What the tracer allocates is overhead, and not traced.
    trace::start(Config::new()).expect("starts");
    let known = black_box((vec![1_u8; 3000], String::from("known")));
    let (bytes, overhead) = (trace::traced_memory(), trace::overhead());
    let mut heard = Vec::new();
    let snapshot = trace::take_snapshot_with(|done, total| heard.push((done, total))).expect("tracing");
    assert_eq!(trace::traced_memory(), bytes, "neither the snapshot nor its progress is traced");
    assert!(heard.len() > 1 && heard.last().is_some_and(|&(done, total)| done == total), "{heard:?}");
    assert_eq!(snapshot.size(), bytes.0);
    let names: usize = snapshot.statistics(By::Line).iter().map(|row| row.to_string().len()).sum();
    let with_snapshot = trace::overhead();
    assert!(with_snapshot > overhead + names as u64, "names and the snapshot are overhead");
    drop(snapshot);
    assert!(trace::overhead() < with_snapshot, "a snapshot is overhead while it lives");
    drop(known);
    trace::stop();
    assert_eq!(trace::overhead(), 0);
    println!("traced memory is exact and has a peak that can be reset, and the tracer is not in it: ok");
}
