//! Statistics on stderr, when the environment variable `PYMALLOC_STATS` or the program asks for them.
//!
//! # When
//! The variable is read once, before `main`. The handler for reports at exit is registered at that moment, so it runs
//! after the handlers that the program registers. A new arena or a signal sets a bit (`observe`). The next slow call or
//! large request of any thread then prints, at a point where the thread holds none of the heap's locks.
//!
//! # How
//! Nothing is allocated. The counts are in a static, because stacks may be small. The text is written one buffer at a
//! time. It is written only while descriptor 2 is still the file that it was when the program was loaded: a program
//! that closed it may have opened a data file in its place. If another thread is printing, the report stays due. A
//! forked child starts anew, because the printing thread may not exist there. A thread that is cancelled while it
//! prints ends only after the report.
//!
//! A report waits until other threads' slow paths end. So a signal handler that interrupts the allocator and calls
//! `exit` would wait for itself. (No program may call `exit` in a signal handler.)

use core::cell::UnsafeCell;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU32, Ordering};

use crate::cache::is_abandoned;
use crate::inspect::stats::{Stats, add_stats};
use crate::observe::{self, REPORT, Reporter};
use crate::os::fork;
use crate::os::{self, NoCancellation, process_id};

/// The variable that asks for reports.
const VARIABLE: &core::ffi::CStr = c"PYMALLOC_STATS";

static REPORTER: Reporter = Reporter(print_if_due);

/// The process of the thread that prints: its [`fork::generation`] plus one. If no thread prints, the value is 0, or an
/// ancestor process left it. A process ID would not do: a process and its child may have the same one, each in a
/// namespace of its own.
static PRINTING: AtomicU32 = AtomicU32::new(0);

/// The counts that are printed. They belong to the printing thread.
static COUNTS: Counts = Counts(UnsafeCell::new(Stats::ZERO));

struct Counts(UnsafeCell<Stats>);

// SAFETY: only the printing thread touches it: the one that found no printing thread of its process in `PRINTING` and
// set it, until it resets it.
unsafe impl Sync for Counts {}

os::at_start!(read_variable);

#[cfg_attr(target_os = "linux", unsafe(link_section = ".text_pymalloc"))]
extern "C" fn read_variable() {
    let Some(value) = os::environment(VARIABLE) else { return };
    observe::set_reporter(&REPORTER);
    let mut at_exit_too = false;
    for word in value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
        match parse(word) {
            Some(Wish::Nothing) => {}
            Some(Wish::Exit) => at_exit_too = true,
            Some(Wish::Arenas) => observe::report_arenas(),
            Some(Wish::Signal(signal)) => {
                if !os::on_signal(signal, on_signal) {
                    complain("the system refuses a handler for", word);
                }
            }
            None => complain("not understood (exit, arenas, signal=USR1, separated by commas):", word),
        }
    }
    if at_exit_too && !os::on_exit(at_exit) {
        complain("the system refuses a handler for", b"exit");
    }
}

/// What a word of the variable asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wish {
    Nothing,
    Exit,
    Arenas,
    /// A report when the signal of that number comes.
    Signal(i32),
}

fn parse(word: &[u8]) -> Option<Wish> {
    match word {
        b"" | b"0" => Some(Wish::Nothing),
        b"1" | b"exit" => Some(Wish::Exit),
        b"arenas" => Some(Wish::Arenas),
        _ => {
            let name = word.strip_prefix(b"signal=")?;
            os::signal_number(name.strip_prefix(b"SIG").unwrap_or(name)).map(Wish::Signal)
        }
    }
}

fn complain(what: &str, word: &[u8]) {
    let mut text = StderrText::new();
    let word = core::str::from_utf8(word).unwrap_or("bytes that are not text");
    // Nobody is left to tell if it fails.
    let _ = writeln!(text, "pymalloc: PYMALLOC_STATS: {what} {word:?}");
    text.flush();
}

extern "C" fn at_exit() {
    if is_abandoned() {
        os::report_stderr(b"pymalloc: no statistics at exit: a thread was ended inside the allocator\n");
        return;
    }
    // Other threads still run: one of them may be in the middle of a report.
    for _ in 0..1000 {
        if print("at exit") {
            return;
        }
        // Relaxed: a hint.
        let printing = PRINTING.load(Ordering::Relaxed);
        if printing != 0 {
            os::futex_wait_for(&PRINTING, printing, core::time::Duration::from_millis(1));
        }
    }
}

/// Touches only one atomic word: a signal handler may do no more here.
extern "C" fn on_signal(_signal: i32) {
    request_report();
}

/// Requests a report: the next slow call or large request of any thread prints [`stats`](crate::stats()) to stderr,
/// once.
///
/// It is meant for the program's own signal handlers, because it only sets a flag. To print at once, print
/// [`stats`](crate::stats()).
///
/// ```
/// # #[global_allocator] static GLOBAL: pymalloc::Pymalloc = pymalloc::Pymalloc::new();
/// extern "C" fn on_signal(_: i32) {
///     pymalloc::request_report();
/// }
/// ```
#[doc(alias = "PYMALLOC_STATS")]
#[doc(alias = "PYTHONMALLOCSTATS")]
#[doc(alias = "MIMALLOC_SHOW_STATS")]
#[doc(alias = "opt.stats_print")]
pub fn request_report() {
    observe::set_reporter(&REPORTER);
    observe::want(REPORT);
}

/// Prints a report if one is due. The thread holds none of the heap's locks.
fn print_if_due() {
    if observe::unwant(REPORT) && !print("while running") {
        observe::want(REPORT);
    }
}

/// The right to print, until dropped. Until then the thread can't be cancelled, because glibc's `mallinfo2` may pass a
/// cancellation point.
struct Printing {
    _no_cancellation: NoCancellation,
}

impl Printing {
    /// Takes the right to print; `None` if another thread of this process has it.
    fn begin() -> Option<Self> {
        let own = fork::generation().wrapping_add(1).max(1);
        // Relaxed: compared, and not followed.
        let before = PRINTING.load(Ordering::Relaxed);
        // Acquire: pairs with the Release of `drop`, for what the last report left in `COUNTS`. Relaxed on failure:
        // nothing was taken.
        let taken =
            before != own && PRINTING.compare_exchange(before, own, Ordering::Acquire, Ordering::Relaxed).is_ok();
        taken.then(|| Self { _no_cancellation: NoCancellation::new() })
    }
}

impl Drop for Printing {
    fn drop(&mut self) {
        // Release: see `begin`.
        PRINTING.store(0, Ordering::Release);
    }
}

/// Prints a report; `false` if another thread is printing.
fn print(when: &str) -> bool {
    let Some(_printing) = Printing::begin() else { return false };
    // SAFETY: this thread alone is printing.
    let counts = unsafe { &mut *COUNTS.0.get() };
    *counts = Stats::ZERO;
    add_stats(counts);
    let mut text = StderrText::new();
    // Nobody is left to tell if it fails.
    let _ = write!(text, "pymalloc: statistics of process {}, {when}\n{counts}\n", process_id());
    text.flush();
    true
}

/// Text for stderr, written one buffer at a time.
struct StderrText {
    bytes: [u8; 512],
    used: usize,
}

impl StderrText {
    const fn new() -> Self {
        Self { bytes: [0; 512], used: 0 }
    }

    fn flush(&mut self) {
        os::report_stderr(&self.bytes[..self.used]);
        self.used = 0;
    }
}

impl Write for StderrText {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            let room = &mut self.bytes[self.used..];
            let (now, later) = rest.split_at(rest.len().min(room.len()));
            room[..now.len()].copy_from_slice(now);
            self.used += now.len();
            rest = later;
            if self.used == self.bytes.len() {
                self.flush();
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_the_variable_are_understood_or_refused() {
        for (word, wish) in [
            ("", Some(Wish::Nothing)),
            ("0", Some(Wish::Nothing)),
            ("1", Some(Wish::Exit)),
            ("exit", Some(Wish::Exit)),
            ("arenas", Some(Wish::Arenas)),
            #[cfg(unix)]
            ("signal=USR1", Some(Wish::Signal(libc::SIGUSR1))),
            #[cfg(unix)]
            ("signal=SIGUSR2", Some(Wish::Signal(libc::SIGUSR2))),
            #[cfg(unix)]
            ("signal=QUIT", Some(Wish::Signal(libc::SIGQUIT))),
            #[cfg(unix)]
            ("signal=SIGHUP", Some(Wish::Signal(libc::SIGHUP))),
            ("signal=KILL", None),
            ("signal=", None),
            ("signal", None),
            ("Exit", None),
            ("exit arenas", None),
        ] {
            assert_eq!(parse(word.as_bytes()), wish, "{word:?}");
        }
        assert_eq!(parse(b"\xff\xfe"), None);
    }

    /// A process and its child may have the same number, each in a namespace of its own; and a child never has the
    /// thread that was printing.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_child_with_its_parents_number_prints() {
        fn first_of_a_namespace(body: impl FnOnce() -> bool) -> Option<bool> {
            // SAFETY: the child runs `body`, which allocates nothing, and exits without running the test harness's exit
            // handlers.
            unsafe {
                if libc::unshare(libc::CLONE_NEWPID) != 0 {
                    return None;
                }
                let child = libc::fork();
                assert!(child >= 0, "no child");
                if child == 0 {
                    libc::alarm(60);
                    libc::_exit(libc::c_int::from(!body()));
                }
                let mut status = 0;
                assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
                Some(status == 0)
            }
        }
        let _own = Printing::begin().expect("nobody prints");
        let passed = first_of_a_namespace(|| {
            let own = Printing::begin();
            let child_passed = first_of_a_namespace(|| Printing::begin().is_some());
            process_id() == 1 && own.is_some() && child_passed == Some(true)
        });
        match passed {
            Some(passed) => assert!(passed),
            None => eprintln!("SKIPPED: this user may make no namespace of processes"),
        }
    }
}
