//! `PYMALLOC_TRACE`: who held the memory at the program's peak, or holds it when the program exits.
//!
//! Tracing starts while the library is loaded, before the program has a second thread, and ends with the process: what was held
//! at the peak is saved then (most programs hold next to nothing when they exit), or what is left. A process that ends by
//! `_exit`, `exec` or a signal saves nothing.
//!
//! | variable | says |
//! |---|---|
//! | `PYMALLOC_TRACE` | the file for the pprof profile; `%p` stands for the process's number |
//! | `PYMALLOC_TRACE_FLAME_GRAPH` | a file for a flame graph, likewise |
//! | `PYMALLOC_TRACE_AT` | `exit`: what is alive then, rather than the peak |
//! | `PYMALLOC_TRACE_PROCESS` | the number of the only process to trace; without it, every one is |
//! | `PYMALLOC_TRACE_FRAMES` | frames a trace |
//! | `PYMALLOC_TRACE_EVERY` | mean bytes between samples |
//! | `PYMALLOC_TRACE_SYSTEM_UNWINDER` | `1`: as [`Config::system_unwinder`], whose hazards are real in a program |

use core::ffi::{CStr, c_int};
use core::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::io::{IsTerminal, Write};
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use pymalloc_core::trace::{self, Config};

use crate::start::variable;

/// Whether this library can trace, for the command `pymalloc run`, which looks for the name.
#[unsafe(no_mangle)]
#[used]
pub(crate) static PYMALLOC_CAN_TRACE: u8 = 1;

static STARTED: AtomicBool = AtomicBool::new(false);
/// A copy of stderr, which programs may close before they exit. -1: none.
static STDERR: AtomicI32 = AtomicI32::new(-1);
/// The least number that the copy may have: out of the way of programs that count on theirs.
const STDERR_COPY_MIN: c_int = 200;

/// Looking names up is silent for so long, and says how far it is that often.
const SILENT: Duration = Duration::from_secs(1);
const PROGRESS: Duration = Duration::from_millis(500);

fn process() -> u32 {
    std::process::id()
}

fn number(name: &CStr) -> Option<u64> {
    variable(name)?.to_str().ok()?.parse().ok()
}

/// A file that a variable names.
fn file(name: &CStr) -> Option<PathBuf> {
    let name = variable(name)?.to_str().ok().filter(|name| !name.is_empty())?;
    Some(name.replace("%p", &process().to_string()).into())
}

/// Whether this process is to be traced: not so its forked children, unless all are.
fn is_meant() -> bool {
    variable(c"PYMALLOC_TRACE_PROCESS").is_none_or(|only| only.to_bytes() == process().to_string().as_bytes())
}

pub(crate) fn start() {
    let wanted = file(c"PYMALLOC_TRACE").or_else(|| file(c"PYMALLOC_TRACE_FLAME_GRAPH"));
    if wanted.is_none() || !is_meant() {
        return;
    }
    // SAFETY: duplicates a descriptor, if it is open.
    let copy = unsafe { libc::fcntl(libc::STDERR_FILENO, libc::F_DUPFD_CLOEXEC, STDERR_COPY_MIN) };
    // Relaxed (both here): read at exit, by this thread or after it.
    STDERR.store(copy, Ordering::Relaxed);
    let mut config = Config::new().keep_peak();
    if let Some(frames) = number(c"PYMALLOC_TRACE_FRAMES") {
        config = config.frames(frames as usize);
    }
    if let Some(bytes) = number(c"PYMALLOC_TRACE_EVERY") {
        config = config.sample_every(bytes);
    }
    if variable(c"PYMALLOC_TRACE_SYSTEM_UNWINDER") == Some(c"1") {
        config = config.system_unwinder();
    }
    match trace::start(config) {
        Ok(()) => STARTED.store(true, Ordering::Relaxed),
        Err(error) => say(&format!("pymalloc: tracing: {error}\n")),
    }
}

fn say(text: &str) {
    with_stderr(|_, stderr| {
        // Nobody is left to tell if it fails.
        let _ = stderr.write_all(text.as_bytes());
    });
}

fn with_stderr(body: impl FnOnce(bool, &mut dyn Write)) {
    let copy = STDERR.load(Ordering::Relaxed);
    if copy < 0 {
        return;
    }
    // SAFETY: a copy of our own, which nobody closes but a program that closes every descriptor; then writes fail.
    let is_terminal = unsafe { BorrowedFd::borrow_raw(copy) }.is_terminal();
    body(is_terminal, &mut Descriptor(copy));
}

struct Descriptor(c_int);

impl Write for Descriptor {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        // SAFETY: a readable buffer of that length.
        let written = unsafe { libc::write(self.0, bytes.as_ptr().cast(), bytes.len()) };
        usize::try_from(written).map_err(|_| std::io::Error::last_os_error())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// How far the search for names is; shown only if it takes long.
struct Progress {
    begun: Instant,
    shown: Option<Instant>,
}

impl Progress {
    fn tell(&mut self, done: usize, total: usize) {
        let due = self.shown.map_or(self.begun.elapsed() >= SILENT, |shown| shown.elapsed() >= PROGRESS);
        if !due && (done < total || self.shown.is_none()) {
            return;
        }
        self.shown = Some(Instant::now());
        with_stderr(|is_terminal, stderr| {
            let (before, after) = if is_terminal { ("\r", if done < total { "" } else { "\n" }) } else { ("", "\n") };
            let _ = write!(stderr, "{before}pymalloc: names of {done} of {total} frames found{after}");
        });
    }
}

extern "C" fn at_exit() {
    if !STARTED.load(Ordering::Relaxed) || !is_meant() {
        return;
    }
    let (current, peak) = trace::traced_memory();
    let mut progress = Progress { begun: Instant::now(), shown: None };
    let tell = |done, total| progress.tell(done, total);
    let at_exit = variable(c"PYMALLOC_TRACE_AT") == Some(c"exit");
    let snapshot = if at_exit { trace::take_snapshot_with(tell) } else { trace::take_peak_snapshot(tell) };
    let Ok(snapshot) = snapshot else { return };
    say(&format!(
        "pymalloc: process {} held {peak} bytes at its peak and {current} at its exit; saved are {} in {} blocks, as {}\n",
        process(),
        snapshot.size(),
        snapshot.count(),
        if at_exit { "at its exit" } else { "near its peak" },
    ));
    if let Some(path) = file(c"PYMALLOC_TRACE")
        && let Err(error) = snapshot.save(&path)
    {
        say(&format!("pymalloc: {}: {error}\n", path.display()));
    }
    if let Some(path) = file(c"PYMALLOC_TRACE_FLAME_GRAPH")
        && let Err(error) = snapshot.save_flame_graph(
            &path,
            if at_exit { "What the program held at its exit" } else { "What the program held at its peak" },
        )
    {
        say(&format!("pymalloc: {}: {error}\n", path.display()));
    }
}

#[used]
#[unsafe(link_section = ".fini_array")]
static AT_EXIT: extern "C" fn() = at_exit;
