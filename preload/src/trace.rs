//! `PYMALLOC_TRACE` saves which calls allocated the memory that is live at the peak, or at the exit.
//! `PYMALLOC_TIMELINE` records the live memory over time.
//!
//! Tracing starts while the library is being loaded, before the program has a second thread, and ends with the process.
//! At the exit, the blocks that were live at the peak are saved (most programs hold next to nothing when they exit), or
//! those that are left. A process that ends by `_exit`, `exec` or a signal saves only its timeline, which then has no
//! end. The variables are read, and the files opened, at the start (`kept`). If each process has its own file, a forked
//! child's is opened when the child exits.
//!
//! | variable | value |
//! |---|---|
//! | `PYMALLOC_TRACE` | the file for the pprof profile; `%p` stands for the process's number |
//! | `PYMALLOC_TRACE_FLAME_GRAPH` | a file for a flame graph, likewise |
//! | `PYMALLOC_TIMELINE` | the file for what is live over time, likewise; written as the program runs |
//! | `PYMALLOC_TIMELINE_EVERY` | milliseconds between its samples |
//! | `PYMALLOC_SERVE` | a socket's path, likewise: clients (`pymalloc top`) ask there what is live |
//! | `PYMALLOC_TRACE_AT` | `exit`: save what is live then, rather than at the peak |
//! | `PYMALLOC_TRACE_PROCESS` | the number of the only process to trace; without it, every process is traced |
//! | `PYMALLOC_TRACE_FRAMES` | frames per trace |
//! | `PYMALLOC_TRACE_EVERY` | mean bytes between samples |
//! | `PYMALLOC_TRACE_SYSTEM_UNWINDER` | `1`: calls [`Config::system_unwinder`]; read there about its hazards |

use core::ffi::CStr;
use core::fmt::Write;
use std::io::IsTerminal;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use pymalloc_core::raw::{self, NoCancellation};
use pymalloc_core::trace::{self, Config, Server, Snapshot, Timeline, TimelineConfig};

use crate::kept::{self, File, Text};
use crate::start::{forks, variable};

/// Says that this library can trace: the command `pymalloc run` looks for this name.
#[unsafe(no_mangle)]
#[used]
pub(crate) static PYMALLOC_CAN_TRACE: u8 = 1;

/// What the variables ask for, read once: the program may change them.
struct Wish {
    profile: Option<&'static File>,
    flame_graph: Option<&'static File>,
    /// The timeline's name, and the timeline until it ends.
    timeline: Option<(String, Mutex<Option<Timeline>>)>,
    /// Serves until the process exits.
    server: Mutex<Option<Server>>,
    at_exit: bool,
    /// Whether forked children are not traced.
    this_process_only: bool,
    /// The [`forks`] of the process that was started.
    forks: u32,
}

/// Set if tracing has begun.
static WISH: OnceLock<Wish> = OnceLock::new();
/// Apart from the wish, as in `graph`.
static PROFILE: OnceLock<File> = OnceLock::new();
static FLAME_GRAPH: OnceLock<File> = OnceLock::new();
const _: () = assert!(size_of::<Wish>() < size_of::<File>());

/// Looking up names is silent for this long; then it reports its progress at this interval.
const SILENT: Duration = Duration::from_secs(1);
const PROGRESS: Duration = Duration::from_millis(500);

fn process() -> u32 {
    std::process::id()
}

pub(crate) fn number(name: &CStr) -> Option<usize> {
    variable(name)?.to_str().ok()?.parse().ok()
}

pub(crate) fn named(name: &CStr) -> Option<&'static CStr> {
    variable(name).filter(|name| !name.is_empty())
}

/// Whether the variables ask to trace this process.
pub(crate) fn is_meant() -> bool {
    let only = variable(c"PYMALLOC_TRACE_PROCESS");
    only.is_none_or(|only| only.to_bytes() == process().to_string().as_bytes())
}

pub(crate) fn start() {
    let (profile, flame_graph) = (named(c"PYMALLOC_TRACE"), named(c"PYMALLOC_TRACE_FLAME_GRAPH"));
    let (timeline, socket) = (named(c"PYMALLOC_TIMELINE"), named(c"PYMALLOC_SERVE"));
    if [profile, flame_graph, timeline, socket].iter().all(Option::is_none) || !is_meant() {
        return;
    }
    kept::keep_stderr();
    let saves = profile.is_some() || flame_graph.is_some();
    let mut config = if saves { Config::new().keep_peak() } else { Config::new() };
    if let Some(frames) = number(c"PYMALLOC_TRACE_FRAMES") {
        config = config.frames(frames);
    }
    if let Some(bytes) = number(c"PYMALLOC_TRACE_EVERY") {
        config = config.sample_every(bytes);
    }
    if variable(c"PYMALLOC_TRACE_SYSTEM_UNWINDER") == Some(c"1") {
        config = config.system_unwinder();
    }
    if let Err(error) = trace::start(config) {
        return say(&format!("pymalloc: tracing: {error}\n"));
    }
    let keep = |name: &CStr| File::keep(name, 0, true);
    WISH.get_or_init(|| Wish {
        profile: profile.map(|name| PROFILE.get_or_init(|| keep(name))),
        flame_graph: flame_graph.map(|name| FLAME_GRAPH.get_or_init(|| keep(name))),
        timeline: timeline.and_then(start_timeline),
        server: Mutex::new(socket.and_then(start_server)),
        at_exit: variable(c"PYMALLOC_TRACE_AT") == Some(c"exit"),
        this_process_only: variable(c"PYMALLOC_TRACE_PROCESS").is_some(),
        forks: forks(),
    });
}

/// A file's name with the process's number in it.
fn numbered(name: &CStr) -> String {
    name.to_string_lossy().replace("%p", &process().to_string())
}

fn start_timeline(name: &CStr) -> Option<(String, Mutex<Option<Timeline>>)> {
    let name = numbered(name);
    let every = number(c"PYMALLOC_TIMELINE_EVERY").map(|milliseconds| Duration::from_millis(milliseconds as u64));
    let config = every.map_or(TimelineConfig::new(), |every| TimelineConfig::new().interval(every));
    match Timeline::start(&name, config) {
        Ok(timeline) => Some((name, Mutex::new(Some(timeline)))),
        Err(error) => {
            say(&format!("pymalloc: {name}: {error}\n"));
            None
        }
    }
}

fn start_server(name: &CStr) -> Option<Server> {
    let name = numbered(name);
    trace::serve(&name).inspect_err(|error| say(&format!("pymalloc: {name}: {error}\n"))).ok()
}

pub(crate) fn say(text: &str) {
    let mut out = Text::new(kept::stderr);
    out.push(text.as_bytes());
    out.flush();
}

/// Shows how far the look-up of names is, if it takes long.
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
        let Some(stderr) = kept::stderr() else { return };
        // SAFETY: it was open a moment ago. Even if another thread has replaced it, it is only asked whether it is a
        // terminal.
        let is_terminal = unsafe { BorrowedFd::borrow_raw(stderr.number()) }.is_terminal();
        let (before, after) = if is_terminal { ("\r", if done < total { "" } else { "\n" }) } else { ("", "\n") };
        say(&format!("{before}pymalloc: names of {done} of {total} frames found{after}"));
    }
}

/// Bytes of stack that looking up names takes, with a wide margin.
const SAVING_STACK_BYTES: usize = 1 << 20;
/// Without this many bytes of memory, saving is not tried: running out of memory would abort the program.
const SAVING_MEMORY_BYTES: usize = 64 << 20;

extern "C" fn at_exit() {
    let Some(wish) = WISH.get().filter(|wish| !wish.this_process_only || wish.forks == forks()) else { return };
    let _no_cancellation = NoCancellation::new();
    // First, because a block that was freed twice could otherwise be handed out twice by the allocations below.
    raw::check_at_exit();
    if let Some((name, timeline)) = &wish.timeline
        && let Some(timeline) = timeline.lock().unwrap_or_else(PoisonError::into_inner).take()
        && let Err(error) = timeline.stop()
    {
        say(&format!("pymalloc: process {}: {name}: {error}\n", process()));
    }
    drop(wish.server.lock().unwrap_or_else(PoisonError::into_inner).take());
    if wish.profile.is_none() && wish.flame_graph.is_none() {
        return;
    }
    if !has_memory() {
        return say("pymalloc: tracing: nothing was saved: the program may not have 64 MiB more\n");
    }
    if has_stack() {
        return save_traced(wish);
    }
    // The stack is too small, or the program made it. Only then does another thread save: a program that calls `exit`
    // in a library's constructor holds the loader's lock, which the look-up of names may need.
    match std::thread::Builder::new().stack_size(SAVING_STACK_BYTES).spawn(|| save_traced(wish)) {
        Ok(saving) => drop(saving.join()),
        Err(error) => say(&format!("pymalloc: tracing: nothing was saved: no thread with enough stack: {error}\n")),
    }
}

/// Whether the system still gives memory.
fn has_memory() -> bool {
    let (rights, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: new memory, which is not touched and is given up at once.
    unsafe {
        let start = libc::mmap(std::ptr::null_mut(), SAVING_MEMORY_BYTES, rights, flags | libc::MAP_NORESERVE, -1, 0);
        start != libc::MAP_FAILED && libc::munmap(start, SAVING_MEMORY_BYTES) == 0
    }
}

/// Whether the calling thread runs on its own stack, and has enough of it left.
fn has_stack() -> bool {
    let here = 0_u8;
    let here = (&raw const here).addr();
    let mut attributes = MaybeUninit::uninit();
    let (mut low, mut bytes) = (std::ptr::null_mut(), 0);
    // SAFETY: the attributes are filled in, read and destroyed, once each.
    let known = unsafe {
        libc::pthread_getattr_np(libc::pthread_self(), attributes.as_mut_ptr()) == 0 && {
            let known = libc::pthread_attr_getstack(attributes.as_ptr(), &mut low, &mut bytes) == 0;
            libc::pthread_attr_destroy(attributes.as_mut_ptr());
            known
        }
    };
    let low = low.addr();
    known && (low..low + bytes).contains(&here) && here - low >= SAVING_STACK_BYTES
}

fn save_traced(wish: &Wish) {
    let traced = trace::traced_memory();
    let mut progress = Progress { begun: Instant::now(), shown: None };
    let tell = |done, total| progress.tell(done, total);
    let snapshot = if wish.at_exit { trace::take_snapshot_with(tell) } else { trace::take_peak_snapshot_with(tell) };
    let (peak, current) = (traced.bytes_peak, traced.bytes_live);
    let mut text = format!("pymalloc: process {} held {peak} bytes at its peak and {current} at its exit; ", process());
    let (saved, when) = match &snapshot {
        Ok(snapshot) => (save(wish, snapshot), if wish.at_exit { "at its exit" } else { "near its peak" }),
        Err(_) => (false, ""),
    };
    // Writing to a string does not fail.
    let _ = match &snapshot {
        Ok(snapshot) if saved => {
            writeln!(text, "saved are {} in {} blocks, as {when}", snapshot.bytes(), snapshot.blocks())
        }
        Ok(_) => writeln!(text, "nothing was saved"),
        Err(error) => writeln!(text, "nothing was saved: {error}"),
    };
    say(&text);
}

/// Saves to each file that is asked for, and reports those that can't be written; returns whether any was saved.
fn save(wish: &Wish, snapshot: &Snapshot) -> bool {
    let write = |file: Option<&File>, bytes: &[u8]| {
        file.is_some_and(|file| match file.save(|descriptor| descriptor.rewrite(bytes)) {
            Ok(()) => true,
            Err(unsaved) => {
                file.complain(&unsaved);
                false
            }
        })
    };
    let mut saved = wish.profile.is_some() && write(wish.profile, &snapshot.to_pprof());
    if wish.flame_graph.is_some() {
        let title =
            if wish.at_exit { "What the program held at its exit" } else { "What the program held at its peak" };
        match snapshot.to_flame_graph(title) {
            Ok(picture) => saved |= write(wish.flame_graph, picture.as_bytes()),
            Err(error) => say(&format!("pymalloc: flame graph: not saved: {error}\n")),
        }
    }
    saved
}

#[used]
#[unsafe(link_section = ".fini_array")]
static AT_EXIT: extern "C" fn() = at_exit;
