//! The tracer against programs whose every allocation is known.
#![cfg(all(feature = "trace", not(windows)))]
#![allow(clippy::vec_box, reason = "the boxes are what is traced")]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

use common::one_at_a_time;
use pymalloc::Pymalloc;
use pymalloc::trace::{self, By, Config, Filter, NotTracing, Snapshot, StartError, Statistic};

#[global_allocator]
static GLOBAL: Pymalloc = Pymalloc::new();

const THIS_FILE: &str = "tests/trace.rs";

/// Stops at its end, also when the test fails.
struct Session {
    _ends: trace::Session,
}

impl Session {
    fn start(config: Config) -> Self {
        Self { _ends: trace::Session::start(config).expect("not tracing, and the configuration is in range") }
    }

    /// What this file's code holds; the test harness allocates, too.
    fn own(&self) -> Snapshot {
        let own = Filter::include().file(THIS_FILE).expect("a pattern");
        trace::take_snapshot().expect("tracing").filter(&[own])
    }
}

/// A line's row.
fn at(snapshot: &Snapshot, line: u32) -> Statistic {
    let rows = snapshot.statistics(By::Line);
    rows.iter()
        .find(|row| row.traceback.frames()[0].line() == line)
        .unwrap_or_else(|| panic!("no row of {line}:\n{rows}"))
        .clone()
}

/// Blocks of every kind, each kind on a line of its own.
struct Known {
    boxes: Vec<Box<[u64; 3]>>,
    large: Vec<u8>,
    zeroed: Vec<u8>,
    zeroed_large: Vec<u8>,
    aligned: Box<Aligned>,
    grown: Vec<u8>,
}

#[repr(align(256))]
struct Aligned(#[allow(dead_code, reason = "only its layout matters")] [u8; 256]);

const BOXES_LINE: u32 = line!() + 5;
#[inline(never)]
fn known() -> Known {
    let mut boxes = Vec::with_capacity(1000);
    for _ in 0..1000 {
        boxes.push(Box::new([7; 3]));
    }
    let large = Vec::with_capacity(100_000);
    let zeroed = vec![0; 300];
    let zeroed_large = vec![0; 70_000];
    let aligned = Box::new(Aligned([1; 256]));
    let mut grown = Vec::with_capacity(8);
    grown.reserve_exact(500);
    grown.reserve_exact(5000);
    grown.reserve_exact(50_000);
    Known { boxes, large, zeroed, zeroed_large, aligned, grown }
}

#[test]
fn a_snapshot_has_the_size_and_count_of_every_line_and_nothing_of_what_was_freed() {
    let _one = one_at_a_time();
    let session = Session::start(Config::new());
    let known = black_box(known());
    let snapshot = session.own();
    let line = |line, size, count| {
        let row = at(&snapshot, line);
        assert_eq!((row.bytes, row.blocks, row.bytes_error), (size, count, 0.0), "{row}");
    };
    line(BOXES_LINE - 2, 8 * 1000, 1);
    line(BOXES_LINE, 24 * 1000, 1000);
    line(BOXES_LINE + 2, 100_000, 1);
    line(BOXES_LINE + 3, 300, 1);
    line(BOXES_LINE + 4, 70_000, 1);
    line(BOXES_LINE + 5, 256, 1);
    // Moved from class to class, to the large allocator and within it: the last request is what is left.
    line(BOXES_LINE + 9, 50_000, 1);
    assert_eq!(snapshot.blocks(), 1006);
    assert_eq!(snapshot.bytes(), 8000 + 24_000 + 100_000 + 300 + 70_000 + 256 + 50_000);
    assert_eq!(snapshot.lost_blocks(), 0);
    assert_eq!(snapshot.sampled_every(), None);

    let Known { boxes, large, zeroed, zeroed_large, aligned, grown } = known;
    drop((large, zeroed, zeroed_large, aligned, grown));
    drop(boxes.into_iter().step_by(2).collect::<Vec<_>>());
    let left = session.own();
    assert_eq!(left.blocks(), 0, "{}", left.statistics(By::Line));
}

#[test]
fn statistics_by_file_function_and_traceback_sum_the_same_blocks() {
    let _one = one_at_a_time();
    let session = Session::start(Config::new());
    let _known = black_box(known());
    let snapshot = session.own();
    let one = |by| {
        let rows = snapshot.statistics(by);
        assert_eq!(rows.iter().map(|row| row.bytes).sum::<usize>(), snapshot.bytes());
        assert_eq!(rows.iter().map(|row| row.blocks).sum::<usize>(), 1006);
        assert!(rows.is_sorted_by_key(|row| std::cmp::Reverse(row.bytes)));
        rows
    };
    let files = one(By::File);
    assert_eq!((files.len(), files[0].traceback.frames()[0].file()), (1, THIS_FILE));
    let functions = one(By::Function);
    assert_eq!((functions.len(), functions[0].traceback.frames()[0].function()), (1, "trace::known"));
    for row in &one(By::Traceback) {
        let frames = row.traceback.frames();
        assert!(!frames[0].function().contains("pymalloc"), "the allocator's frames are taken off:\n{}", row.traceback);
        let known =
            frames.iter().position(|frame| frame.function() == "trace::known").expect("the allocating function");
        assert!(
            frames[known + 1].function().starts_with("trace::statistics_by_file"),
            "its caller:\n{}",
            row.traceback
        );
        assert_eq!(row.traceback.cause(), &frames[known]);
    }
    // Cumulative: everybody on the stack is charged, once.
    let all = snapshot.cumulative_statistics(By::Function);
    let caller = all.iter().find(|row| row.traceback.frames()[0].function().ends_with("sum_the_same_blocks"));
    assert_eq!(caller.map(|row| (row.bytes, row.blocks)), Some((snapshot.bytes(), 1006)));
    let file =
        snapshot.cumulative_statistics(By::File).into_iter().find(|row| row.traceback.frames()[0].file() == THIS_FILE);
    assert_eq!(file.map(|row| row.bytes), Some(snapshot.bytes()), "two frames of a file are charged once");
}

#[test]
fn configurations_out_of_range_are_refused_and_change_nothing() {
    let _one = one_at_a_time();
    let refused = |config, error| {
        assert_eq!(trace::start(config), Err(error));
        assert!(!trace::is_tracing());
    };
    refused(Config::new().frames(0), StartError::Frames(0));
    refused(Config::new().frames(257), StartError::Frames(257));
    refused(Config::new().frames(usize::MAX), StartError::Frames(usize::MAX));
    refused(Config::new().sample_every(0), StartError::Interval(0));
    refused(Config::new().sample_every(usize::MAX), StartError::Interval(usize::MAX));
    assert_eq!(StartError::Frames(0).to_string(), "the number of frames must be in range [1; 256], not 0");
    assert_eq!(trace::take_snapshot(), Err(NotTracing));
    assert_eq!(trace::traceback_of(&0_u8), None);
    trace::stop();
    trace::clear();

    let session = Session::start(Config::new().frames(3));
    assert_eq!(trace::start(Config::new()), Err(StartError::AlreadyTracing));
    assert_eq!(trace::config(), Some(Config::new().frames(3)), "it goes on as it was");
    drop(session);
    assert_eq!(trace::config(), None);
}

#[test]
fn a_session_stops_itself_also_by_a_panic_and_no_other() {
    let _one = one_at_a_time();
    let start = || trace::Session::start(Config::new());
    let first = start().expect("starts");
    assert_eq!(start().map(drop), Err(StartError::AlreadyTracing));
    assert!(trace::is_tracing(), "the one that did not start stops nothing");
    trace::stop();
    trace::start(Config::new().frames(2)).expect("starts");
    drop(first);
    assert_eq!(trace::config(), Some(Config::new().frames(2)), "the next one is not the first one's to stop");
    trace::stop();
    let thread = std::panic::catch_unwind(|| {
        let _session = start();
        assert!(trace::is_tracing());
        std::panic::resume_unwind(Box::new(()));
    });
    assert!(thread.is_err() && !trace::is_tracing());
    start().expect("starts").stop();
    assert!(!trace::is_tracing());
}

#[test]
fn blocks_from_before_the_start_and_after_the_stop_do_no_harm() {
    let _one = one_at_a_time();
    let before: Vec<Box<[u8; 40]>> = (0..1000).map(|_| Box::new([1; 40])).collect();
    let large = black_box(vec![0_u8; 5000]);
    let session = Session::start(Config::new());
    drop(before);
    drop(large);
    assert_eq!(session.own().blocks(), 0);
    let mut during: Vec<Box<[u8; 40]>> = (0..1000).map(|_| Box::new([2; 40])).collect();
    let mut large = black_box(vec![0_u8; 5000]);
    assert_eq!(session.own().blocks(), 1002);
    drop(session);
    during.truncate(500);
    large.reserve_exact(100_000);
    let session = Session::start(Config::new());
    assert_eq!(session.own().blocks(), 0, "a new session begins with nothing");
    drop(during);
    large.reserve_exact(200_000);
    assert_eq!(session.own().blocks(), 1, "an unknown block that moves becomes known");
    drop(large);
    assert_eq!(session.own().blocks(), 0);
    drop(session);
    common::assert_sound();
}

#[inline(never)]
fn deep(depth: usize) -> Box<u64> {
    if depth == 0 { Box::new(3) } else { black_box(deep(depth - 1)) }
}

#[test]
fn a_trace_has_as_many_frames_as_were_asked_for() {
    let _one = one_at_a_time();
    // Inlined calls come on top, so frames are counted by the calls of a function that is never inlined.
    for frames in [1, 2, 5, 30, 64, 256] {
        let session = Session::start(Config::new().frames(frames));
        let block = black_box(deep(300));
        let traceback = trace::traceback_of(&raw const *block).expect("traced");
        let calls = traceback.frames().iter().filter(|frame| frame.function() == "trace::deep").count();
        assert!(calls <= frames && traceback.frames().len() >= frames, "{calls} calls, {frames} frames:\n{traceback}");
        // In a debug build, `Box::new` and what it calls are frames of their own.
        assert!(frames < 30 || calls >= frames - 10, "{calls} of {frames}");
        drop(session);
    }
}

/// Goes down `path`: each step is a function with another kind of frame. At the end it allocates.
fn descend(path: &[u8]) -> Box<u64> {
    match path.split_first() {
        None => Box::new(1),
        Some((0, rest)) => plain(rest),
        Some((1, rest)) => aligned_to_64(rest),
        Some((2, rest)) => aligned_to_512(rest),
        Some((3, rest)) => wide(rest),
        Some((_, rest)) => by_closure(rest),
    }
}

#[inline(never)]
fn plain(rest: &[u8]) -> Box<u64> {
    black_box(descend(rest))
}

#[repr(align(64))]
struct To64([u8; 64]);

/// The size of a frame with such a local depends on where the caller's ends.
#[inline(never)]
fn aligned_to_64(rest: &[u8]) -> Box<u64> {
    let local = black_box(To64([rest.len() as u8; 64]));
    let block = descend(rest);
    black_box(&local.0);
    block
}

#[repr(align(512))]
struct To512([u8; 512]);

#[inline(never)]
fn aligned_to_512(rest: &[u8]) -> Box<u64> {
    let local = black_box(To512([rest.len() as u8; 512]));
    let block = descend(rest);
    black_box(&local.0);
    block
}

#[inline(never)]
fn wide(rest: &[u8]) -> Box<u64> {
    let local = black_box([rest.len(); 700]);
    let block = descend(rest);
    black_box(&local);
    block
}

#[inline(never)]
fn by_closure(rest: &[u8]) -> Box<u64> {
    let call: &dyn Fn() -> Box<u64> = &|| descend(rest);
    black_box(black_box(call)())
}

const STEPS: [&str; 5] =
    ["trace::plain", "trace::aligned_to_64", "trace::aligned_to_512", "trace::wide", "trace::by_closure"];

#[test]
fn every_stack_is_right_whatever_its_frames_are_like() {
    let _one = one_at_a_time();
    let session = Session::start(Config::new().frames(200));
    let mut rng = common::Rng::new(5);
    for round in 0..1500 {
        let path: Vec<u8> = (0..rng.below(20)).map(|_| rng.below(STEPS.len()) as u8).collect();
        let descend = || black_box(descend(&path));
        // Threads have stacks of their own.
        let block = if round % 50 == 0 {
            std::thread::scope(|scope| scope.spawn(descend).join().expect("no panic"))
        } else {
            descend()
        };
        let traceback = trace::traceback_of(&raw const *block).expect("traced");
        let steps: Vec<&str> = traceback
            .frames()
            .iter()
            .rev()
            .map(pymalloc::trace::Frame::function)
            .filter(|name| STEPS.contains(name))
            .collect();
        let expected: Vec<&str> = path.iter().map(|&step| STEPS[usize::from(step)]).collect();
        assert_eq!(steps, expected, "round {round}:\n{traceback}");
    }
    drop(session);
}

#[test]
fn a_difference_has_what_came_and_what_went() {
    let _one = one_at_a_time();
    let session = Session::start(Config::new());
    let first: Vec<Box<[u8; 100]>> = (0..10).map(|_| Box::new([0; 100])).collect();
    let old = session.own();
    let (second_line, second) = (line!(), (0..30).map(|_| Box::new([0_u8; 200])).collect::<Vec<_>>());
    drop(first);
    let new = session.own();
    let diff = new.compare_to(&old, By::Line);
    assert_eq!(diff.len(), 2, "{diff}");
    // The vector is of the same line as its boxes.
    let (came, went) = (&diff[0], &diff[1]);
    assert_eq!(came.traceback.frames()[0].line(), second_line);
    assert_eq!((came.bytes, came.bytes_diff, came.blocks, came.blocks_diff), (6240, 6240, 31, 31));
    assert_eq!((went.bytes, went.bytes_diff, went.blocks, went.blocks_diff), (0, -1080, 0, -11));
    assert_eq!(
        diff.to_string(),
        format!(
            "{THIS_FILE}:{second_line}: size=6240 B (+6240 B), count=31 (+31), average=201 B\n\
             {THIS_FILE}:{}: size=0 B (-1080 B), count=0 (-11)\n",
            second_line - 2
        )
    );
    assert_eq!(
        new.statistics(By::Line).to_string(),
        format!("{THIS_FILE}:{second_line}: size=6240 B, count=31, average=201 B\n")
    );
    assert_eq!(diff.top(1).to_string().lines().last(), Some("1 other: -1080 B"));
    assert!(new.compare_to(&new, By::Traceback).iter().all(|row| row.bytes_diff == 0 && row.blocks_diff == 0));
    let same = new.cumulative_compare_to(&old, By::File);
    let own = same.iter().find(|row| row.traceback.frames()[0].file() == THIS_FILE).expect("a row");
    assert_eq!((own.bytes_diff, own.blocks_diff), (6240 - 1080, 20));
    drop(second);
}

/// Refuses to move, or to give, large blocks when told to.
struct Refusing;

static REFUSES: AtomicBool = AtomicBool::new(false);

// SAFETY: the system's allocator, or null, which the contract allows.
unsafe impl GlobalAlloc for Refusing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if REFUSES.load(Ordering::Relaxed) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promise is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is the same.
        unsafe { System.dealloc(ptr, layout) };
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        if REFUSES.load(Ordering::Relaxed) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promise is the same.
        unsafe { System.realloc(ptr, layout, new_size) }
    }
}

#[test]
fn a_block_that_could_not_be_moved_stays_known() {
    let _one = one_at_a_time();
    let allocator = Pymalloc::with_large(Refusing);
    let layout = Layout::from_size_align(4000, 8).expect("a layout");
    let session = Session::start(Config::new());
    // SAFETY: blocks are used as the contract of `GlobalAlloc` says.
    unsafe {
        let block = black_box(allocator.alloc(layout));
        assert_eq!(session.own().bytes(), 4000);
        REFUSES.store(true, Ordering::Relaxed);
        assert!(allocator.realloc(block, layout, 9000).is_null());
        assert!(allocator.alloc(layout).is_null());
        REFUSES.store(false, Ordering::Relaxed);
        assert_eq!((session.own().bytes(), session.own().blocks()), (4000, 1));
        let block = allocator.realloc(block, layout, 9000);
        assert_eq!((session.own().bytes(), session.own().blocks()), (9000, 1));
        // From the large allocator to a pool.
        let block = allocator.realloc(block, Layout::from_size_align(9000, 8).expect("a layout"), 100);
        assert_eq!((session.own().bytes(), session.own().blocks()), (100, 1));
        allocator.dealloc(block, Layout::from_size_align(100, 8).expect("a layout"));
    }
    assert_eq!(session.own().blocks(), 0);
}

#[test]
fn a_sample_estimates_sizes_and_counts_within_its_stated_error() {
    let _one = one_at_a_time();
    let session = Session::start(Config::new().sample_every(10_000));
    let blocks: Vec<Box<[u8; 100]>> = (0..100_000).map(|_| Box::new([1; 100])).collect();
    let large: Vec<Vec<u8>> = (0..500).map(|_| Vec::with_capacity(20_000)).collect();
    let snapshot = session.own();
    assert_eq!(snapshot.sampled_every(), Some(10_000));
    let sampled: usize = snapshot.traces().map(|trace| trace.blocks).sum();
    assert!((500..5000).contains(&sampled), "{sampled} samples");
    let rows = snapshot.statistics(By::Line);
    let (true_size, true_count) = (100_000 * 100 + 800_000 + 500 * 20_000 + 12_000, 100_000 + 500 + 2);
    for (name, estimate, truth, error) in [
        ("size", snapshot.bytes() as f64, f64::from(true_size), snapshot.bytes_error()),
        (
            "count",
            snapshot.blocks() as f64,
            f64::from(true_count),
            rows.iter().map(|row| row.blocks_error.powi(2)).sum::<f64>().sqrt(),
        ),
    ] {
        // Once in two million runs by chance: the error is one standard deviation.
        assert!((estimate - truth).abs() < 5.0 * error, "{name}: {estimate} ± {error} of {truth}");
        assert!(error < truth * 0.1, "{name}: {error} of {truth}");
    }
    assert!(rows[0].to_string().contains(" ± "), "{rows}");
    drop((blocks, large));
    assert_eq!(session.own().blocks(), 0, "every sampled block's free was seen");
}

const HELD_BYTES: usize = 12_345;

#[test]
fn a_panic_and_its_backtrace_are_survived_and_traced() {
    let _one = one_at_a_time();
    let session = Session::start(Config::new());
    let caught = catch_unwind(AssertUnwindSafe(|| {
        let held = black_box(vec![1_u8; HELD_BYTES]);
        let trace = std::backtrace::Backtrace::force_capture().to_string();
        assert!(trace.contains("a_panic_and_its_backtrace"), "{trace}");
        std::panic::resume_unwind(Box::new(held.len()));
    }));
    assert_eq!(caught.expect_err("it panicked").downcast_ref(), Some(&HELD_BYTES));
    // The standard library keeps the debug information that it read.
    assert!(session.own().traces().all(|trace| trace.block_bytes != HELD_BYTES));
}

#[test]
fn the_crate_of_every_frame_can_be_filtered_by() {
    let _one = one_at_a_time();
    let session = Session::start(Config::new());
    let _known = black_box(known());
    let all = trace::take_snapshot().expect("tracing");
    let by_crate = |filter: Filter| all.filter(&[filter]).blocks();
    assert_eq!(by_crate(Filter::include().crate_name("trace").expect("a pattern")), 1006);
    assert_eq!(by_crate(Filter::exclude().crate_name("trace").expect("a pattern")), all.blocks() - 1006);
    assert_eq!(by_crate(Filter::include().function("*::known").expect("a pattern").all_frames()), 1006);
    let line = Filter::include().file("tests/t*.rs").expect("a pattern").line(BOXES_LINE);
    assert_eq!(by_crate(line), 1000);
    drop(session);
}
