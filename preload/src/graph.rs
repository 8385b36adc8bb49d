//! `PYMALLOC_LEAKS` reports the blocks that nothing refers to when the program exits. `PYMALLOC_HEAPSNAPSHOT` saves the
//! whole heap as a graph, at the exit or on a signal.
//!
//! | variable | value |
//! |---|---|
//! | `PYMALLOC_LEAKS` | `1`: a report on stderr at the exit |
//! | `PYMALLOC_HEAPSNAPSHOT` | the file for Chrome's DevTools and others; `%p` stands for the process's number |
//! | `PYMALLOC_HEAPSNAPSHOT_SIGNAL` | the number of a signal on which the file is written, instead of at the exit |
//!
//! `PYMALLOC_TRACE_PROCESS` applies to these, too. On a signal, a thread of the library's own takes the graph. It
//! starts while the library is being loaded, blocks the program's signals, and sleeps until the handler wakes it. A
//! forked child has no such thread.

use core::ffi::{c_int, c_void};
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use core::time::Duration;
use std::io::Write;
use std::sync::OnceLock;
use std::time::Instant;

use pymalloc_core::graph::{self, Config, HeapGraph};
use pymalloc_core::raw::{Descriptor, NoCancellation, begin_thread, start_thread};
use pymalloc_core::trace;

use crate::kept::{self, File};
use crate::start::{forks, variable};
use crate::trace::{is_meant, named, number, say};

/// The most leaks that a report shows; its sums are of all leaks.
const LEAKS_SHOWN: usize = 50;

/// What the variables ask for, read once.
struct Wish {
    leaks: bool,
    snapshot: Option<&'static File>,
    on_signal: bool,
    this_process_only: bool,
    /// The [`forks`] of the process that was started.
    forks: u32,
}

static WISH: OnceLock<Wish> = OnceLock::new();
/// Apart from the wish: `None` of so large a type is what lay on the stack before. Addresses there seem to hold blocks.
static SNAPSHOT: OnceLock<File> = OnceLock::new();
const _: () = assert!(size_of::<Wish>() < size_of::<File>());

/// The number of signals received so far.
static SIGNALS: AtomicU32 = AtomicU32::new(0);
/// The number of those that were answered.
static ANSWERED: AtomicU32 = AtomicU32::new(0);
/// The thread that answers them has begun.
static ANSWERS: AtomicBool = AtomicBool::new(false);
/// How long the exit waits for an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

pub(crate) fn start() {
    let leaks = variable(c"PYMALLOC_LEAKS").is_some_and(|value| value != c"" && value != c"0");
    let snapshot = named(c"PYMALLOC_HEAPSNAPSHOT");
    if (!leaks && snapshot.is_none()) || !is_meant() {
        return;
    }
    kept::keep_stderr();
    if !trace::is_tracing()
        && let Err(error) = trace::start(trace::Config::new())
    {
        return say(&format!("pymalloc: tracing: {error}\n"));
    }
    let signal = number(c"PYMALLOC_HEAPSNAPSHOT_SIGNAL").and_then(|number| c_int::try_from(number).ok());
    WISH.get_or_init(|| Wish {
        leaks,
        snapshot: snapshot.map(|name| SNAPSHOT.get_or_init(|| File::keep(name, 0, true))),
        on_signal: signal.is_some(),
        this_process_only: variable(c"PYMALLOC_TRACE_PROCESS").is_some(),
        forks: forks(),
    });
    if let Some(signal) = signal
        && !(watch(signal) && start_thread(wait))
    {
        say("pymalloc: the signal for the heap snapshot can't be watched\n");
    }
}

extern "C" fn note(_signal: c_int) {
    // Relaxed: the system call below orders it before the kernel's look at the word.
    SIGNALS.fetch_add(1, Ordering::Relaxed);
    // SAFETY: the kernel uses the address as a name only. `errno` changes only if the call fails, which it does not.
    unsafe { libc::syscall(libc::SYS_futex, SIGNALS.as_ptr(), libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG, 1) };
}

fn watch(signal: c_int) -> bool {
    // SAFETY: all zero is a valid action; the handler is a function that lives as long as the program.
    unsafe {
        let mut action: libc::sigaction = core::mem::zeroed();
        action.sa_sigaction = note as *const () as libc::sighandler_t;
        action.sa_flags = libc::SA_RESTART;
        libc::sigaction(signal, &action, core::ptr::null_mut()) == 0
    }
}

extern "C" fn wait(_: *mut c_void) -> *mut c_void {
    begin_thread(c"pymalloc-graph");
    // Relaxed: a flag alone.
    ANSWERS.store(true, Ordering::Relaxed);
    let mut done = 0;
    loop {
        // Relaxed: a count.
        let come = SIGNALS.load(Ordering::Relaxed);
        if come == done {
            // SAFETY: the word lives as long as the program; the kernel only reads it.
            unsafe {
                let wait = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
                libc::syscall(libc::SYS_futex, SIGNALS.as_ptr(), wait, done, core::ptr::null::<libc::timespec>());
            }
            continue;
        }
        done = come;
        if let Some(wish) = WISH.get() {
            match graph::take(Config::new().go_on_without_threads()) {
                Ok(graph) => save(wish, &graph),
                Err(error) => say(&format!("pymalloc: no graph of the heap: {error}\n")),
            }
        }
        // Relaxed: a count; what was written is the kernel's.
        ANSWERED.store(done, Ordering::Relaxed);
    }
}

/// Waits until the signals that came so far are answered: the program asked for a snapshot before its exit.
fn finish_answers(wish: &Wish) {
    // Relaxed (all): as above. A forked child has no thread that answers.
    if !wish.on_signal || wish.forks != forks() || !ANSWERS.load(Ordering::Relaxed) {
        return;
    }
    let (come, begun) = (SIGNALS.load(Ordering::Relaxed), Instant::now());
    let is_late = || come.wrapping_sub(ANSWERED.load(Ordering::Relaxed)).cast_signed() > 0;
    while is_late() && begun.elapsed() < ANSWER_WITHIN {
        std::thread::sleep(Duration::from_millis(5));
    }
}

extern "C" fn at_exit() {
    let Some(wish) = WISH.get().filter(|wish| !wish.this_process_only || wish.forks == forks()) else { return };
    let saves = wish.snapshot.is_some() && !wish.on_signal;
    let _no_cancellation = NoCancellation::new();
    finish_answers(wish);
    if !wish.leaks && !saves {
        return;
    }
    let graph = match graph::take(Config::new().go_on_without_threads()) {
        Ok(graph) => graph,
        Err(error) => return say(&format!("pymalloc: no graph of the heap: {error}\n")),
    };
    if wish.leaks {
        report(&graph);
    }
    if saves {
        save(wish, &graph);
    }
}

fn report(graph: &HeapGraph) {
    let leaks = graph.leaks();
    let process = std::process::id();
    let mut text = match leaks.len() {
        0 => format!("pymalloc: process {process} leaks nothing at its exit\n{leaks}"),
        _ => format!("pymalloc: process {process} leaks at its exit:\n\n{}", leaks.top(LEAKS_SHOWN)),
    };
    if leaks.len() > LEAKS_SHOWN {
        text.push_str(&format!("{} further call stacks are not shown\n", leaks.len() - LEAKS_SHOWN));
    }
    if !graph.threads_left().is_empty() {
        text.push_str(&format!("threads that could not be stopped: {:?}\n", graph.threads_left()));
    }
    say(&text);
}

/// A descriptor, as a writer.
struct Out(Descriptor);

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write_all(bytes).map_err(std::io::Error::from_raw_os_error)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn save(wish: &Wish, graph: &HeapGraph) {
    let Some(file) = wish.snapshot else { return };
    let saved = file.save(|descriptor| {
        descriptor.rewrite(&[])?;
        let mut out = std::io::BufWriter::with_capacity(1 << 16, Out(descriptor));
        let written = graph.write_heapsnapshot(&mut out).and_then(|()| out.flush());
        written.map_err(|error| error.raw_os_error().unwrap_or(libc::EIO))
    });
    match saved {
        Ok(()) => say(&format!("pymalloc: process {}: saved the heap: {}\n", std::process::id(), graph.summary())),
        Err(unsaved) => file.complain(&unsaved),
    }
}

#[used]
#[unsafe(link_section = ".fini_array")]
static AT_EXIT: extern "C" fn() = at_exit;
