//! `pymalloc run --timeline` and `--serve`, `pymalloc timeline` and `pymalloc top`.
#![cfg(feature = "trace")]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::{Scratch, child, command_path, is_child, library, output_of};
use pymalloc_core::trace::{Recording, Snapshot};

const PATIENCE: Duration = Duration::from_secs(60);

fn pymalloc(arguments: &[&str]) -> Command {
    let mut command = Command::new(command_path());
    command.args(arguments).env_remove("LD_PRELOAD");
    command
}

/// Runs the test of that name again, on the library.
fn run_self(test: &str, options: &[&str]) -> Command {
    let child = child(test);
    let mut command = pymalloc(&["run", "--library"]);
    command.arg(library()).args(options).arg("--").arg(child.get_program()).args(child.get_args());
    command.envs(child.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command
}

fn refused(output: &Output, message: &str) {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(said.contains(message), "{said:?} does not say {message:?}");
}

/// Refused in one line: so are errors that the command itself finds, unlike those of the parser of arguments.
fn refused_in_a_line(output: &Output, message: &str) {
    refused(output, message);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.starts_with("pymalloc: ") && said.matches('\n').count() == 1, "{said:?}");
}

#[inline(never)]
fn held(count: usize) -> Vec<*mut libc::c_void> {
    // SAFETY: blocks of malloc's.
    std::hint::black_box((0..count).map(|_| unsafe { libc::malloc(88) }).collect())
}

fn free(blocks: Vec<*mut libc::c_void>) {
    // SAFETY: blocks of malloc's, each freed once.
    blocks.into_iter().for_each(|block| unsafe { libc::free(block) });
}

fn of_88(snapshot: &Snapshot) -> usize {
    snapshot.traces().filter(|trace| trace.block_bytes == 88).map(|trace| trace.blocks).sum()
}

fn pause() {
    std::thread::sleep(Duration::from_millis(40));
}

#[test]
fn a_page_is_there_when_the_program_has_ended() {
    if is_child() {
        let blocks = held(5000);
        pause();
        free(blocks);
        std::process::exit(7);
    }
    let page = Scratch::new("out.html");
    let name = page.0.to_str().expect("UTF-8");
    let output = output_of(&mut run_self("a_page_is_there_when_the_program_has_ended", &["--timeline", name]));
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    let text = fs::read_to_string(&page.0).expect("a page");
    assert!(text.starts_with("<!doctype html>") && text.contains("::held\"") && text.contains("\"isCut\":false"));
    assert!(!Path::new(&format!("{name}.timeline")).exists());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("samples; at the peak, after"), "{said}");
}

#[test]
fn a_recording_is_shown_in_the_terminal_whole_at_a_moment_and_of_a_range() {
    if is_child() {
        let first = held(3000);
        pause();
        let second = held(700);
        pause();
        free(first);
        pause();
        return free(second);
    }
    let file = Scratch::new("out.timeline");
    let name = file.0.to_str().expect("UTF-8");
    let test = "a_recording_is_shown_in_the_terminal_whole_at_a_moment_and_of_a_range";
    let output = output_of(&mut run_self(test, &["--timeline", name, "--timeline-every", "5"]));
    assert!(output.status.success(), "{output:?}");
    let recording = Recording::load(&file.0).expect("a timeline");
    let most = (0..recording.moments().len()).map(|index| of_88(&recording.live_at(index))).max();
    assert_eq!((most, recording.is_cut()), (Some(3700), false));
    // No frame of the library's.
    let peak = recording.live_at(recording.peak_index());
    assert!(peak.traces().all(|trace| !trace.traceback.frames()[0].function().contains("pymalloc::")));
    let show = |arguments: &[&str]| {
        let output = output_of(pymalloc(&["timeline", name]).args(arguments));
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let end = recording.moments().last().expect("samples").time.as_secs_f64().to_string();
    assert!(show(&[]).contains("▲ peak"));
    assert!(show(&["--at", "0"]).starts_with("Live after 0.00 s"));
    let range = show(&["--from", "0", "--to", &end, "--top", "3"]);
    assert!(range.starts_with("Allocated after 0.00 s and not freed by"), "{range}");
    let page = Scratch::new("later.html");
    show(&["--html", page.0.to_str().expect("UTF-8")]);
    assert!(fs::read_to_string(&page.0).expect("a page").contains("uPlot"));
    refused_in_a_line(&output_of(pymalloc(&["timeline", name]).args(["--from", "2", "--to", "1"])), "--from is after");
}

#[test]
fn a_program_that_a_signal_ends_leaves_its_timeline_and_its_status() {
    if is_child() {
        std::mem::forget(held(4000));
        pause();
        pause();
        // SAFETY: plain numbers.
        unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    }
    let page = Scratch::new("killed.html");
    let test = "a_program_that_a_signal_ends_leaves_its_timeline_and_its_status";
    let output =
        output_of(&mut run_self(test, &["--timeline", page.0.to_str().expect("UTF-8"), "--timeline-every", "5"]));
    assert_eq!(output.status.signal(), Some(libc::SIGKILL), "{output:?}");
    let text = fs::read_to_string(&page.0).expect("a page");
    assert!(text.contains("\"isCut\":true") && text.contains("::held\""));
}

#[test]
fn signals_are_passed_on_and_exec_begins_anew() {
    let file = Scratch::new("exec.timeline");
    let script = "trap 'exit 5' TERM; kill -TERM $PPID; while :; do sleep 0.01; done";
    let name = file.0.to_str().expect("UTF-8");
    let mut command = pymalloc(&["run", "--library"]);
    // `bash` ends by `exit`. The program that `exec` starts has the same number, and is recorded in its place.
    command.arg(library()).args(["--timeline", name, "--", "env", "-u", "NOTHING", "bash", "-c", script]);
    let output = output_of(&mut command);
    assert_eq!(output.status.code(), Some(5), "{output:?}");
    let recording = Recording::load(&file.0).expect("a timeline");
    assert!(recording.program().ends_with("bash") && !recording.is_cut(), "{}", recording.program());
}

#[test]
fn what_can_be_no_timeline_is_refused_before_the_program_runs() {
    let run = |arguments: &[&str]| output_of(pymalloc(&["run", "--library"]).arg(library()).args(arguments));
    refused_in_a_line(&run(&["--timeline", "/no/such/folder/x.html", "echo", "ran"]), "/no/such/folder/x.html");
    refused_in_a_line(&run(&["--timeline", "%p.html", "echo", "ran"]), "%p.timeline");
    refused(&run(&["--timeline-every", "5", "echo", "ran"]), "--timeline");
    refused(&run(&["--timeline", "x", "--timeline-every", "0", "echo", "ran"]), "0");
    refused_in_a_line(&output_of(&mut pymalloc(&["timeline", "/no/such/file"])), "/no/such/file");
    refused_in_a_line(&output_of(&mut pymalloc(&["timeline", "/dev/null"])), "ends before its first sample");
    refused_in_a_line(&output_of(&mut pymalloc(&["top", "/no/such/socket"])), "/no/such/socket");
    refused_in_a_line(&output_of(&mut pymalloc(&["top", "1"])), "process 1 does not serve");
}

/// A program that serves, until it is dropped.
struct Served {
    child: Child,
    folder: Scratch,
}

impl Served {
    fn start(test: &str) -> Self {
        let folder = Scratch::new("run");
        fs::create_dir(&folder.0).expect("a folder");
        let mut command = run_self(test, &["--serve"]);
        command.env("XDG_RUNTIME_DIR", &folder.0).stdin(Stdio::piped()).stdout(Stdio::null());
        Self { child: command.spawn().expect("it runs"), folder }
    }

    fn top(&self, arguments: &[&str]) -> Command {
        let mut command = pymalloc(&["top", &self.child.id().to_string()]);
        command.args(arguments).env("XDG_RUNTIME_DIR", &self.folder.0);
        command
    }

    /// Waits until the program holds all its blocks.
    fn wait(&self) -> String {
        let begun = Instant::now();
        loop {
            let output = output_of(&mut self.top(&["--once"]));
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            if text.lines().any(|line| line.contains("::held") && line.contains(" 12345 ")) {
                return text;
            }
            assert!(begun.elapsed() < PATIENCE, "{output:?}");
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder.0);
    }
}

/// A pseudo-terminal: the test's end, and the program's end.
fn terminal() -> (fs::File, OwnedFd) {
    let (mut own, mut other) = (0, 0);
    let size = libc::winsize { ws_row: 30, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
    let none = std::ptr::null_mut();
    // SAFETY: places for two descriptors, which are owned from then on.
    unsafe {
        assert_eq!(libc::openpty(&raw mut own, &raw mut other, none, none.cast(), (&raw const size).cast_mut()), 0);
        (fs::File::from_raw_fd(own), OwnedFd::from_raw_fd(other))
    }
}

/// The text that was written to a terminal, in order: a move of the cursor counts as a space, a colour as nothing.
fn plain(written: &str) -> String {
    let mut parts = written.split("\u{1b}[");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(|letter: char| letter.is_ascii_alphabetic()).unwrap_or(part.len());
        let (sequence, rest) = part.split_at((end + 1).min(part.len()));
        text.push_str(if sequence.ends_with('H') { " " } else { "" });
        text.push_str(rest);
    }
    text
}

/// Reads what the terminal shows until some text is among it.
fn read_until(terminal: &mut fs::File, seen: &mut String, text: &str) {
    let begun = Instant::now();
    while !plain(seen).contains(text) {
        assert!(begun.elapsed() < PATIENCE, "no {text:?} in {:?}", plain(seen));
        let mut event = libc::pollfd { fd: terminal.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one event.
        if unsafe { libc::poll(&raw mut event, 1, 1000) } > 0 {
            let mut bytes = [0; 4096];
            let read = terminal.read(&mut bytes).unwrap_or_else(|error| panic!("{error}: {seen:?}"));
            seen.push_str(&String::from_utf8_lossy(&bytes[..read]));
        }
    }
}

#[test]
fn top_shows_a_running_program_which_goes_on_when_top_has_ended() {
    if is_child() {
        let blocks = held(12_345);
        // Waits until the other end is closed.
        let _ = std::io::stdin().read(&mut [0]);
        free(blocks);
        std::process::exit(3);
    }
    let mut served = Served::start("top_shows_a_running_program_which_goes_on_when_top_has_ended");
    let text = served.wait();
    let row = text.lines().find(|line| line.contains(" 12345 ")).expect("waited for");
    assert!(row.trim_start().starts_with("1061 KiB"), "{text}");
    refused_in_a_line(&output_of(&mut served.top(&[])), "there is no terminal");

    let (mut screen, other) = terminal();
    let mut command = served.top(&["--every", "0.2"]);
    let copy = || Stdio::from(other.try_clone().expect("a descriptor"));
    command.env("TERM", "xterm-256color").stdin(copy()).stdout(copy()).stderr(copy());
    // SAFETY: only system calls: the terminal becomes the new session's.
    unsafe {
        command.pre_exec(|| {
            libc::setsid();
            libc::ioctl(0, libc::TIOCSCTTY, 0);
            Ok(())
        });
    }
    let mut top = command.spawn().expect("it runs");
    drop(other);
    let mut seen = String::new();
    read_until(&mut screen, &mut seen, "q quit");
    let text = plain(&seen);
    assert!(text.contains("::held") && text.contains("12345"), "{text:?}");
    let mut press = |key: &[u8], text: &str| {
        let mut seen = String::new();
        screen.write_all(key).expect("a terminal");
        read_until(&mut screen, &mut seen, text);
    };
    // A cell that shows the same as before is not written again: so these texts are where something else was.
    press(b"2", "▀▀▀▀");
    press(b"1", "held");
    press(b"l", ".rs:");
    press(b"p", "(paused)");
    screen.write_all(b"q").expect("a terminal");
    assert_eq!(top.wait().expect("ours").code(), Some(0));

    assert!(served.child.try_wait().expect("ours").is_none(), "the program goes on");
    let folder = served.folder.0.join("pymalloc");
    assert_eq!(fs::read_dir(&folder).expect("it was made").count(), 1);
    drop(served.child.stdin.take());
    assert_eq!(served.child.wait().expect("ours").code(), Some(3));
    assert_eq!(fs::read_dir(&folder).expect("it was made").count(), 0, "the socket is gone");
}
