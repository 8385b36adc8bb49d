//! The leak helper finds memory that grows, and only that.
#![cfg(all(feature = "trace", not(windows)))]
#![allow(clippy::vec_box, reason = "the boxes are what is traced")]

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::thread;

use common::one_at_a_time;
use pymalloc::Pymalloc;
use pymalloc::trace::{self, Config, GrowthError, Runs, assert_no_growth, find_growth};

#[global_allocator]
static GLOBAL: Pymalloc = Pymalloc::new();

static KEPT: Mutex<Vec<Box<[u8; 32]>>> = Mutex::new(Vec::new());

#[inline(never)]
fn leaks(blocks: usize) {
    let mut kept = KEPT.lock().expect("no panic with it");
    for _ in 0..blocks {
        kept.push(Box::new([1; 32]));
    }
}

fn message(panics: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(panics)).expect_err("it panics");
    let text = panic.downcast_ref::<&str>().map(|&text| text.to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).expect("a message")
}

#[test]
fn what_grows_with_each_run_is_named_with_its_line_and_numbers() {
    let _one = one_at_a_time();
    let growth = find_growth(Runs::new().warm_up(1).counted(3), || leaks(5)).expect("looked");
    // The vector that holds the blocks grows, too, but not with each run, and it is always one block.
    assert_eq!(growth.len(), 1, "{growth:?}");
    assert_eq!((&growth[0].blocks[..], growth[0].bytes), (&[5, 5, 5][..], 15 * 32));
    assert_eq!(growth[0].traceback.cause().function(), "trace_growth::leaks");
    assert!(!trace::is_tracing(), "stops what it started");

    let message = message(|| assert_no_growth(|| leaks(2)));
    assert!(message.starts_with("memory grows with each run at 1 call sites:\ntests/trace_growth.rs:"), "{message}");
    assert!(message.contains("256 B more, blocks by run: [2, 2, 2, 2]"), "{message}");
    assert!(message.contains("in trace_growth::leaks\n"), "{message}");
}

#[test]
fn what_is_freed_cached_or_replaced_does_not_grow() {
    let _one = one_at_a_time();
    let mut cache = Vec::new();
    let mut last = None;
    assert_no_growth(|| {
        drop(vec![Box::new(1); 100]);
        if cache.len() < 3 {
            cache.push(Box::new([0; 99]));
        }
        last = Some(String::from("replaced by each run"));
        vec![0_u8; 10_000]
    });
    assert!(last.is_some());
}

#[test]
fn a_leak_in_another_thread_is_found_and_a_panic_ends_the_search() {
    let _one = one_at_a_time();
    let growth =
        find_growth(Runs::default(), || thread::scope(|scope| drop(scope.spawn(|| leaks(1)).join()))).expect("looked");
    assert!(growth.iter().any(|growth| growth.traceback.cause().function() == "trace_growth::leaks"), "{growth:?}");
    let message = message(|| assert_no_growth(|| panic!("in run 1")));
    assert_eq!(message, "in run 1");
    assert!(!trace::is_tracing());
    assert_no_growth(|| ());
}

#[test]
fn a_search_joins_a_session_unless_that_samples_and_says_when_it_ends() {
    let _one = one_at_a_time();
    trace::start(Config::new().frames(3)).expect("starts");
    assert_eq!(find_growth(Runs::default(), || leaks(1)).map(|growth| growth.len()), Ok(1));
    assert_eq!(trace::config(), Some(Config::new().frames(3)), "goes on");
    assert_eq!(find_growth(Runs::default(), trace::stop), Err(GrowthError::Interrupted));
    trace::start(Config::new().sample_every(1000)).expect("starts");
    assert_eq!(find_growth(Runs::default(), || ()), Err(GrowthError::Sampled));
    trace::stop();
    assert_eq!(find_growth(Runs::new().warm_up(0).counted(0), || ()), Err(GrowthError::NoRuns));
}

#[test]
fn a_search_inside_of_a_search_is_an_error_and_the_outer_one_goes_on() {
    let _one = one_at_a_time();
    let mut inner = Vec::new();
    let outer = find_growth(Runs::new().warm_up(1).counted(1), || {
        inner.push(find_growth(Runs::default(), || ()));
        let message = message(|| assert_no_growth(|| ()));
        assert!(message.contains("can't run inside of another"), "{message}");
        leaks(1);
    });
    assert_eq!(inner, vec![Err(GrowthError::Nested); 2]);
    let outer = outer.expect("looked");
    assert!(outer.iter().any(|growth| growth.traceback.cause().function() == "trace_growth::leaks"), "{outer:?}");
    // A search that ended by an error or a panic leaves no session behind.
    let _ = message(|| assert_no_growth(|| panic!("in a run")));
    assert_eq!(find_growth(Runs::new().warm_up(0).counted(0), || ()), Err(GrowthError::NoRuns));
    assert_no_growth(|| ());
}
