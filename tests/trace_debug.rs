//! The debug hooks with the tracer on: the dump before an abort shows where the block was allocated and freed.

mod common;

use std::alloc::{Layout, alloc, dealloc};
use std::hint::black_box;

use common::abort_of;
use pymalloc::debug::DebugAlloc;
use pymalloc::{Pymalloc, trace};

#[global_allocator]
static GLOBAL: DebugAlloc<Pymalloc> = DebugAlloc::new(Pymalloc::new());

const LAYOUT: Layout = Layout::new::<[u64; 12]>();

const ALLOCATION_LINE: u32 = line!() + 5;

#[inline(never)]
fn allocates_here() -> *mut u8 {
    // SAFETY: the size is not 0.
    black_box(unsafe { alloc(LAYOUT) })
}

#[inline(never)]
fn frees_here(block: *mut u8) {
    // SAFETY: none for the second free: that is the test.
    unsafe { dealloc(black_box(block), LAYOUT) };
    black_box(());
}

/// The part of a dump about an allocation or a free.
fn part<'dump>(dump: &'dump str, what: &str) -> &'dump str {
    let head = format!("\nMemory block {what} at (most recent call first):\n");
    let start = dump.find(&head).unwrap_or_else(|| panic!("no {head:?} in\n{dump}")) + head.len();
    let end = dump[start..].find("\n\n").or(dump[start..].find("\nMemory")).unwrap_or(dump.len() - start);
    &dump[start..start + end]
}

#[test]
fn a_double_free_is_shown_with_both_stacks_by_place() {
    let dump = abort_of("a_double_free_is_shown_with_both_stacks_by_place", || {
        trace::start(trace::Config::new()).expect("not tracing yet");
        let block = allocates_here();
        frees_here(block);
        frees_here(block);
    });
    let program = std::env::current_exe().expect("a path");
    let program = program.to_string_lossy();
    // In a static program there is no loader, so the file of an address is unknown.
    let file = if cfg!(target_feature = "crt-static") { "\"?" } else { &*program };
    for what in ["allocated", "freed"] {
        let lines: Vec<&str> = part(&dump, what).lines().collect();
        assert!(lines.len() > 3, "{dump}");
        assert!(lines[..3].iter().all(|line| line.contains(file) && line.contains("\", place 0x")), "{dump}");
    }
    assert!(dump.trim_end().lines().next_back().is_some_and(|line| line.contains("double free")), "{dump}");
}

#[test]
fn frames_that_a_snapshot_named_are_shown_with_their_lines() {
    let dump = abort_of("frames_that_a_snapshot_named_are_shown_with_their_lines", || {
        trace::start(trace::Config::new()).expect("not tracing yet");
        let block = allocates_here();
        drop(trace::take_snapshot().expect("tracing"));
        frees_here(block);
        frees_here(block);
    });
    let first = part(&dump, "allocated").lines().find(|line| line.contains("trace_debug::")).expect("a named frame");
    let expected = format!("tests/trace_debug.rs\", line {ALLOCATION_LINE}, in trace_debug::allocates_here");
    assert!(first.contains(&expected), "{dump}");
}

#[test]
fn after_the_tracers_end_there_is_nothing_to_show() {
    let dump = abort_of("after_the_tracers_end_there_is_nothing_to_show", || {
        trace::start(trace::Config::new()).expect("not tracing yet");
        let block = allocates_here();
        frees_here(block);
        trace::stop();
        frees_here(block);
    });
    assert!(!dump.contains("Memory block allocated at"), "{dump}");
}
