//! Timelines: what is recorded is what was allocated and freed, to the byte; what is cut or damaged is said to be.
//!
//! One test after the other: a program has one timeline.
#![allow(clippy::vec_box, reason = "each block is to be an allocation of its own")]
#![cfg(all(feature = "trace", target_os = "linux", not(pymalloc_bypass)))]

use std::fs;
use std::hint::black_box;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pymalloc::trace::{
    self, By, Config, Filter, Recording, RecordingError, Session, Snapshot, Timeline, TimelineConfig, TimelineError,
};

#[global_allocator]
static GLOBAL: pymalloc::Pymalloc = pymalloc::Pymalloc::new();

/// A file of this test's own, gone when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("pymalloc-timeline-{}-{name}", std::process::id())))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Only samples at peaks and the last one: then a test knows how many there are.
fn rarely() -> TimelineConfig {
    TimelineConfig::new().interval(TimelineConfig::INTERVAL_MAX)
}

fn often() -> TimelineConfig {
    TimelineConfig::new().interval(Duration::from_millis(2))
}

#[inline(never)]
fn kept(count: usize) -> Vec<Box<[u8; 48]>> {
    black_box((0..count).map(|_| Box::new([1; 48])).collect())
}

#[inline(never)]
fn freed_later(count: usize) -> Vec<Box<[u8; 80]>> {
    black_box((0..count).map(|_| Box::new([1; 80])).collect())
}

fn of_size(snapshot: &Snapshot, function: &str, bytes: usize) -> usize {
    let filter = Filter::include().function(function).expect("a pattern").all_frames();
    let found = snapshot.filter(&[filter]);
    found.traces().filter(|trace| trace.block_bytes == bytes).map(|trace| trace.blocks).sum()
}

/// Waits until the sampler has written two samples: the second began after the call.
fn pass_two_samples(file: &Scratch) {
    let bytes = || fs::metadata(&file.0).expect("it was made").len();
    for _ in 0..2 {
        let before = bytes();
        while bytes() == before {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn what_was_live_and_what_was_allocated_in_a_range_is_known_to_the_block() {
    let file = Scratch::new("range");
    let before = kept(100);
    let session = Session::start(Config::new()).expect("no other");
    let known = kept(11);
    let timeline = Timeline::start(&file.0, often()).expect("no other");
    pass_two_samples(&file);
    let first = kept(23);
    let later = freed_later(31);
    pass_two_samples(&file);
    let middle = Recording::load(&file.0).expect("readable while it is written");
    let second = kept(47);
    drop(later);
    drop(first);
    pass_two_samples(&file);
    timeline.stop().expect("no fault");
    drop(session);

    let recording = Recording::load(&file.0).expect("a timeline");
    assert!(!recording.is_cut() && middle.is_cut());
    assert_eq!((recording.lost_blocks(), recording.process()), (0, std::process::id()));
    let (end, half) = (recording.moments().len() - 1, middle.moments().len() - 1);
    let count = |snapshot: &Snapshot| (of_size(snapshot, "*kept*", 48), of_size(snapshot, "*freed_later*", 80));
    assert_eq!(count(&recording.live_at(0)), (11, 0));
    assert_eq!(count(&recording.live_at(half)), (11 + 23, 31));
    assert_eq!(count(&recording.live_at(end)), (11 + 47, 0));
    // Not freed by the end of the range, whatever comes after it; not what was there before.
    assert_eq!(count(&recording.allocated_in(0..half)), (23, 31));
    assert_eq!(count(&recording.allocated_in(0..end)), (47, 0));
    assert_eq!(count(&recording.allocated_in(half..end)), (47, 0));
    assert_eq!(count(&recording.allocated_in(end..end)), (0, 0));
    for (index, moment) in recording.moments().iter().enumerate() {
        let live = recording.live_at(index).bytes();
        // Another thread of the test's harness may allocate between the sum and the count of all.
        assert!(live.abs_diff(moment.bytes_live) < 4096, "{index}: {live} of {moment:?}");
        assert!(moment.bytes_resident > 0 && moment.bytes_arenas > 0 && moment.bytes_peak >= moment.bytes_live);
    }
    drop((before, known, second));
}

fn a_short_peak_has_its_sample_without_any_thread_s_waking() {
    let file = Scratch::new("peak");
    let timeline = Timeline::start(&file.0, rarely()).expect("no other");
    for _ in 0..3 {
        drop(black_box(freed_later(20_000)));
    }
    timeline.stop().expect("no fault");
    let recording = Recording::load(&file.0).expect("a timeline");
    let index = recording.peak_index();
    let peak = recording.peak().expect("there are samples");
    assert!(peak.at_peak && peak.bytes_live >= 20_000 * 80 * 15 / 16, "{peak:?}");
    assert!(recording.moments().len() < 200, "one sample for each sixteenth: {}", recording.moments().len());
    let top = recording.live_at(index).statistics(By::Function);
    assert!(top[0].traceback.cause().function().contains("freed_later"), "{top}");
    // The most is known even where no sample was due.
    let most = recording.moments().iter().map(|moment| moment.bytes_peak).max().expect("there are samples");
    assert!(most >= 20_000 * 80);
    let text = recording.to_string();
    assert!(text.contains("▲ peak") && text.contains("freed_later"), "{text}");
}

fn threads_that_allocate_meanwhile_leave_nothing_behind() {
    let file = Scratch::new("threads");
    let timeline = Timeline::start(&file.0, often()).expect("no other");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let stop = &stop;
            scope.spawn(move || {
                let mut held = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    held.push(freed_later(10 + thread));
                    if held.len() > 40 {
                        held.clear();
                    }
                }
            });
        }
        std::thread::sleep(Duration::from_millis(60));
        stop.store(true, Ordering::Relaxed);
    });
    timeline.stop().expect("no fault");
    let recording = Recording::load(&file.0).expect("a timeline");
    let end = recording.moments().len() - 1;
    assert_eq!(of_size(&recording.live_at(end), "*freed_later*", 80), 0);
    // Each block that was counted in is counted out from the interval that it came in.
    for start in [0, end / 3, end / 2] {
        assert_eq!(of_size(&recording.allocated_in(start..end), "*freed_later*", 80), 0, "{start}");
    }
    assert_eq!(recording.lost_blocks(), 0);
}

fn estimates_of_a_sampled_timeline_are_near() {
    let file = Scratch::new("sampled");
    let config = rarely().trace(Config::new().sample_every(4096));
    let timeline = Timeline::start(&file.0, config).expect("no other");
    let blocks = freed_later(100_000);
    timeline.stop().expect("no fault");
    drop(blocks);
    let recording = Recording::load(&file.0).expect("a timeline");
    let live = recording.live_at(recording.moments().len() - 1).bytes() as f64;
    assert_eq!(recording.sampled_every(), Some(4096));
    // A standard error of 2 %.
    assert!((live / (8_000_000.0 + 800_000.0) - 1.0).abs() < 0.15, "{live}");
}

fn what_is_no_timeline_is_told() {
    let file = Scratch::new("none");
    let load = |bytes: &[u8]| {
        fs::write(&file.0, bytes).expect("ours");
        Recording::load(&file.0)
    };
    assert!(matches!(load(b"pymalloc timeline 2\n"), Err(RecordingError::OtherVersion)));
    assert!(matches!(load(b"something else"), Err(RecordingError::NotATimeline)));
    assert!(matches!(load(b""), Err(RecordingError::Truncated)));
    assert!(matches!(Recording::load("/no/such/file"), Err(RecordingError::Io(_))));
}

fn what_cannot_be_is_refused_and_changes_nothing() {
    let file = Scratch::new("refused");
    for interval in [Duration::ZERO, Duration::from_secs(4000)] {
        let config = TimelineConfig::new().interval(interval);
        assert!(matches!(Timeline::start(&file.0, config), Err(TimelineError::Interval(_))));
    }
    assert!(matches!(Timeline::start("/no/such/folder/x", rarely()), Err(TimelineError::Io(_))));
    assert!(matches!(Timeline::start("/dev/null", rarely()), Err(TimelineError::Io(_))));
    let config = rarely().trace(Config::new().frames(0));
    assert!(matches!(Timeline::start(&file.0, config), Err(TimelineError::Start(_))));
    assert!(!trace::is_tracing());
    let timeline = Timeline::start(&file.0, rarely()).expect("no other");
    assert!(matches!(Timeline::start(&file.0, rarely()), Err(TimelineError::AlreadyRecording)));
    timeline.stop().expect("the first goes on");
    // A session that ends takes its timeline along, and no other.
    let session = Session::start(Config::new()).expect("no other");
    let first = Timeline::start(&file.0, rarely()).expect("no other");
    drop(session);
    let second = Scratch::new("second");
    let timeline = Timeline::start(&second.0, rarely()).expect("no other");
    first.stop().expect("it had ended");
    let blocks = freed_later(500);
    timeline.stop().expect("no fault");
    let recording = Recording::load(&second.0).expect("a timeline");
    assert!(
        !recording.is_cut() && of_size(&recording.live_at(recording.moments().len() - 1), "*freed_later*", 80) == 500
    );
    assert!(!Recording::load(&file.0).expect("a timeline").is_cut());
    drop(blocks);
}

fn a_forked_child_records_nothing_says_so_and_leaves_its_parent_s_file_alone() {
    let file = Scratch::new("fork");
    let timeline = Timeline::start(&file.0, often()).expect("no other");
    pass_two_samples(&file);
    // SAFETY: the child allocates, which this crate lets it, and ends by `_exit`.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let blocks = freed_later(100_000);
        std::thread::sleep(Duration::from_millis(20));
        let said = timeline.stop();
        drop(blocks);
        let own = Scratch::new("child");
        let of_its_own = Timeline::start(&own.0, rarely()).and_then(Timeline::stop);
        let is_right = matches!(said, Err(TimelineError::Forked)) && of_its_own.is_ok();
        drop(own);
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(if is_right { 0 } else { 1 }) };
    }
    let mut status = 0;
    // SAFETY: our own child.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!(status, 0);
    pass_two_samples(&file);
    timeline.stop().expect("no fault");
    let recording = Recording::load(&file.0).expect("a timeline");
    assert!(!recording.is_cut());
    for index in 0..recording.moments().len() {
        assert_eq!(of_size(&recording.live_at(index), "*freed_later*", 80), 0, "the child's blocks");
    }
}

fn a_file_that_the_program_closed_is_found_again_and_another_one_is_left_alone() {
    let file = Scratch::new("closed");
    let close_all = || {
        for number in 700..760 {
            // SAFETY: descriptors of the timeline's, if any: what a program does that closes all.
            unsafe { libc::close(number) };
        }
    };
    let timeline = Timeline::start(&file.0, rarely()).expect("no other");
    close_all();
    let blocks = freed_later(300);
    timeline.stop().expect("opened again");
    let recording = Recording::load(&file.0).expect("a timeline");
    assert!(
        !recording.is_cut() && of_size(&recording.live_at(recording.moments().len() - 1), "*freed_later*", 80) == 300
    );
    let timeline = Timeline::start(&file.0, rarely()).expect("no other");
    close_all();
    fs::remove_file(&file.0).expect("ours");
    fs::write(&file.0, "another").expect("ours");
    assert!(matches!(timeline.stop(), Err(TimelineError::Replaced)));
    assert_eq!(fs::read(&file.0).expect("ours"), b"another");
    drop(blocks);
}

fn the_disk_s_end_is_told() {
    let file = Scratch::new("full");
    let timeline = Timeline::start(&file.0, rarely()).expect("no other");
    let blocks = freed_later(300);
    // SAFETY: plain numbers; a file may have no further byte from here on, and the signal that says so is ignored.
    let before = unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        let mut before: libc::rlimit = core::mem::zeroed();
        libc::getrlimit(libc::RLIMIT_FSIZE, &raw mut before);
        libc::setrlimit(libc::RLIMIT_FSIZE, &libc::rlimit { rlim_cur: 100, ..before });
        before
    };
    let stopped = timeline.stop();
    // SAFETY: the limit from before.
    unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &raw const before) };
    assert!(matches!(stopped, Err(TimelineError::Io(_))), "{stopped:?}");
    assert!(Recording::load(&file.0).expect("what was written before").is_cut());
    drop(blocks);
}

#[test]
fn timelines() {
    what_was_live_and_what_was_allocated_in_a_range_is_known_to_the_block();
    a_short_peak_has_its_sample_without_any_thread_s_waking();
    threads_that_allocate_meanwhile_leave_nothing_behind();
    estimates_of_a_sampled_timeline_are_near();
    what_is_no_timeline_is_told();
    what_cannot_be_is_refused_and_changes_nothing();
    a_forked_child_records_nothing_says_so_and_leaves_its_parent_s_file_alone();
    a_file_that_the_program_closed_is_found_again_and_another_one_is_left_alone();
    the_disk_s_end_is_told();
}
