//! The tracer in a program that has another allocator: it sees nothing, does no harm, and does not call that "no leak".
#![cfg(all(feature = "trace", not(windows)))]

use pymalloc::trace::{self, Config, GrowthError, Runs, TracedMemory, find_growth};

#[test]
fn a_program_with_another_allocator_is_told_so() {
    trace::start(Config::new()).expect("starts");
    let block = std::hint::black_box(Box::new(5));
    assert_eq!(trace::traceback_of(&raw const *block), None);
    let snapshot = trace::take_snapshot().expect("tracing");
    assert_eq!((snapshot.blocks(), trace::traced_memory()), (0, TracedMemory::default()));
    trace::stop();
    assert_eq!(find_growth(Runs::default(), || Box::leak(Box::new(1))), Err(GrowthError::NotTheAllocator));
    assert!(!trace::is_tracing());
}
