//! The environment variable `PYMALLOC_STATS`, in processes of their own.
#![cfg(not(pymalloc_bypass))]

mod common;

use std::ffi::OsStr;
use std::hint::black_box;
use std::process::{Command, Output};
use std::thread;

use common::is_child;
use pymalloc::{ARENA_BYTES, Pymalloc, stats};

#[global_allocator]
static GLOBAL: Pymalloc = Pymalloc::new();

/// Runs the body of a test in a process of its own, with the variable set to `value`.
fn child(test: &str, value: Option<&OsStr>) -> Output {
    let mut command = Command::new(std::env::current_exe().expect("an executable"));
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env("PYMALLOC_TEST_CHILD", "1");
    match value {
        Some(value) => command.env("PYMALLOC_STATS", value),
        None => command.env_remove("PYMALLOC_STATS"),
    };
    command.output().expect("a child")
}

/// What the child printed on stderr, after it succeeded.
fn printed(test: &str, value: &str) -> String {
    let output = child(test, Some(value.as_ref()));
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(!text.contains("the system refuses"), "{text}");
    text
}

/// The numbers in the lines with this label, one a report.
fn numbers(text: &str, label: &str) -> Vec<usize> {
    let lines = text.lines().filter(|line| line.starts_with(label));
    let numbers = lines.map(|line| line.rsplit('=').next().expect("a number").trim().replace(',', ""));
    numbers.map(|number| number.parse().expect("digits")).collect()
}

/// Panics unless the text is so many whole reports, one after the other, each with sums that are right.
fn assert_reports(text: &str, running: usize, at_exit: usize) {
    let whens = text.lines().filter_map(|line| line.strip_prefix("pymalloc: statistics of process "));
    let whens: Vec<_> = whens.map(|line| line.split_once(", ").expect("a moment").1).collect();
    let expected: Vec<_> = std::iter::repeat_n("while running", running).chain(vec!["at exit"; at_exit]).collect();
    assert_eq!(whens, expected, "{text}");
    let heads = text.lines().filter(|line| line.starts_with("class   size   num pools")).count();
    assert_eq!(heads, running + at_exit, "{text}");
    let totals = numbers(text, "Total");
    assert_eq!(totals.len(), running + at_exit);
    for (total, arenas) in totals.into_iter().zip(numbers(text, "# arenas allocated current")) {
        assert_eq!(total, arenas * ARENA_BYTES);
    }
}

type Node = Box<[u64; 8]>;

fn grow(bytes: usize) -> Vec<Node> {
    (0..bytes / 64).map(|n| black_box(Box::new([n as u64; 8]))).collect()
}

#[test]
fn without_the_variable_nothing_is_printed() {
    if is_child() {
        drop(grow(10 * ARENA_BYTES));
        return;
    }
    for value in [None, Some(OsStr::new("")), Some(OsStr::new("0")), Some(OsStr::new(" , "))] {
        let output = child("without_the_variable_nothing_is_printed", value);
        assert!(output.status.success() && output.stderr.is_empty(), "{value:?}: {output:?}");
    }
}

#[test]
fn a_report_at_exit_shows_what_is_left() {
    if is_child() {
        std::mem::forget(grow(3 << 20));
        return;
    }
    for value in ["1", "exit", " exit ,"] {
        let text = printed("a_report_at_exit_shows_what_is_left", value);
        assert_reports(&text, 0, 1);
        assert!(numbers(&text, "# bytes in allocated blocks")[0] >= 3 << 20);
    }
}

#[test]
fn a_report_is_printed_at_each_new_arena() {
    if is_child() {
        let kept = grow(10 * ARENA_BYTES);
        println!("arenas: {}", stats().arenas_ever);
        drop(kept);
        return;
    }
    let output = child("a_report_is_printed_at_each_new_arena", Some("arenas,exit".as_ref()));
    let (out, text) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let arenas = out.lines().find_map(|line| line.split_once("arenas: ")).expect("printed").1;
    let arenas = arenas.trim().parse().expect("a number");
    assert!(arenas >= 10);
    assert_reports(&text, arenas, 1);
    let seen: Vec<_> = numbers(&text, "# arenas allocated total");
    assert_eq!(seen[..arenas], Vec::from_iter(1..=arenas));
}

#[cfg(unix)]
#[test]
fn a_signal_asks_for_a_report() {
    if is_child() {
        for _ in 0..2 {
            // SAFETY: a valid signal, which the variable gave a handler.
            assert_eq!(unsafe { libc::raise(libc::SIGUSR2) }, 0);
            drop(grow(1 << 20));
        }
        return;
    }
    assert_reports(&printed("a_signal_asks_for_a_report", "signal=SIGUSR2"), 2, 0);
}

#[test]
fn the_program_asks_for_a_report() {
    if is_child() {
        pymalloc::request_report();
        drop(grow(1 << 20));
        // A large request will do, too.
        pymalloc::request_report();
        drop(black_box(vec![1_u8; 5000]));
        return;
    }
    assert_reports(&printed("the_program_asks_for_a_report", ""), 2, 0);
}

#[test]
fn a_word_that_is_not_understood_gets_one_line_and_the_program_runs() {
    if is_child() {
        return;
    }
    let text = printed("a_word_that_is_not_understood_gets_one_line_and_the_program_runs", "exot,signal=KILL");
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(lines[0].starts_with("pymalloc: PYMALLOC_STATS: not understood") && lines[0].ends_with("\"exot\""));
    assert!(lines[1].ends_with("\"signal=KILL\""));
    // Windows makes text of any value.
    #[cfg(unix)]
    {
        let output = child("a_word_that_is_not_understood_gets_one_line_and_the_program_runs", Some(&no_text()));
        assert!(output.status.success());
        assert!(String::from_utf8(output.stderr).expect("UTF-8").contains("bytes that are not text"));
    }
}

#[cfg(unix)]
fn no_text() -> std::ffi::OsString {
    std::os::unix::ffi::OsStringExt::from_vec(vec![b'x', 0xff])
}

#[test]
fn reports_of_several_threads_do_not_mix() {
    if is_child() {
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..30 {
                        pymalloc::request_report();
                        drop(grow(1 << 20));
                    }
                });
            }
        });
        return;
    }
    let text = printed("reports_of_several_threads_do_not_mix", "arenas,exit");
    let running = text.matches("while running").count();
    // Requests that come while a report is being printed make one together.
    assert!(running >= 4, "{running} reports");
    assert_reports(&text, running, 1);
}

/// Runs `body` on a thread with the smallest stack that the system allows.
#[cfg(unix)]
fn on_a_small_stack(body: extern "C" fn(*mut libc::c_void) -> *mut libc::c_void) {
    // SAFETY: the attributes are initialised before use, the thread is joined, and its function takes no argument.
    unsafe {
        let least = usize::try_from(libc::sysconf(libc::_SC_THREAD_STACK_MIN)).unwrap_or(0);
        let mut attributes: libc::pthread_attr_t = std::mem::zeroed();
        assert_eq!(libc::pthread_attr_init(&raw mut attributes), 0);
        assert_eq!(libc::pthread_attr_setstacksize(&raw mut attributes, least.max(16 << 10)), 0);
        let mut thread: libc::pthread_t = std::mem::zeroed();
        assert_eq!(libc::pthread_create(&raw mut thread, &raw const attributes, body, std::ptr::null_mut()), 0);
        assert_eq!(libc::pthread_join(thread, std::ptr::null_mut()), 0);
    }
}

#[cfg(unix)]
#[test]
fn a_report_needs_little_stack() {
    extern "C" fn report(_: *mut libc::c_void) -> *mut libc::c_void {
        pymalloc::request_report();
        drop(grow(1 << 16));
        std::ptr::null_mut()
    }
    if is_child() {
        on_a_small_stack(report);
        return;
    }
    assert_reports(&printed("a_report_needs_little_stack", ""), 1, 0);
}

#[test]
fn exit_on_a_thread_while_others_allocate_prints_and_ends() {
    if is_child() {
        #[cfg(unix)]
        common::watchdog();
        for _ in 0..3 {
            thread::spawn(|| {
                loop {
                    drop(grow(1 << 18));
                }
            });
        }
        thread::spawn(|| {
            drop(grow(1 << 20));
            std::process::exit(7);
        });
        loop {
            drop(grow(1 << 18));
        }
    }
    let output = child("exit_on_a_thread_while_others_allocate_prints_and_ends", Some("exit".as_ref()));
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    let text = String::from_utf8_lossy(&output.stderr);
    // Windows ends the others first, as a rule inside the allocator; Wine calls nothing of the program's after that.
    let none = ["", "pymalloc: no statistics at exit: a thread was ended inside the allocator\n"];
    if !cfg!(windows) || !none.contains(&&*text) {
        assert_reports(&text, 0, 1);
    }
}

#[cfg(unix)]
#[test]
fn a_forked_child_prints_its_own_report() {
    if is_child() {
        let kept = grow(1 << 20);
        // SAFETY: the child only allocates, frees and exits.
        let process = unsafe { libc::fork() };
        assert!(process >= 0);
        if process == 0 {
            drop(kept);
            std::process::exit(0);
        }
        let mut status = 0;
        // SAFETY: our own child.
        assert_eq!(unsafe { libc::waitpid(process, &raw mut status, 0) }, process);
        assert_eq!(status, 0);
        std::mem::forget(kept);
        return;
    }
    let text = printed("a_forked_child_prints_its_own_report", "exit");
    assert_reports(&text, 0, 2);
    let live = numbers(&text, "# bytes in allocated blocks");
    // The child is first.
    assert!(live[0] + (1 << 19) < live[1], "{live:?}");
    let processes: Vec<_> = text.lines().filter(|line| line.contains("of process")).collect();
    assert_ne!(processes[0], processes[1]);
}

#[cfg(unix)]
#[test]
fn a_closed_stderr_changes_nothing() {
    if is_child() {
        drop(grow(4 * ARENA_BYTES));
        return;
    }
    let status = Command::new("sh")
        .args(["-c", "exec \"$0\" \"$@\" 2>&-"])
        .arg(std::env::current_exe().expect("an executable"))
        .args(["--exact", "a_closed_stderr_changes_nothing"])
        .env("PYMALLOC_TEST_CHILD", "1")
        .env("PYMALLOC_STATS", "arenas,exit")
        .output()
        .expect("a shell")
        .status;
    assert!(status.success(), "{status:?}");
}
