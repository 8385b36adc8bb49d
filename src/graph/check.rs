//! Searches for leaks in tests, and when the program exits.

use core::fmt;

use super::config::{Config, Error};
use super::read::leaks::Leaks;
use super::take;
use crate::os;
use crate::trace;

/// Why [`find_leaks`] could not search.
#[derive(Debug)]
#[non_exhaustive]
pub enum LeakError {
    /// No graph could be taken.
    Graph(Error),
    /// The tracer was not on, and could not be started.
    Trace(trace::StartError),
}

impl fmt::Display for LeakError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Graph(error) => write!(f, "{error}"),
            Self::Trace(error) => write!(f, "{error}"),
        }
    }
}

impl core::error::Error for LeakError {}

/// Calls `body`, and returns the blocks that were allocated meanwhile and that nothing refers to afterwards.
///
/// Circles of `Rc` are among them. Blocks that were there before do not count; blocks that other threads leak meanwhile
/// do. If the program is not traced yet, it is traced while `body` runs.
///
/// # Errors
/// If no graph could be taken, or tracing could not be started.
pub fn find_leaks<R>(body: impl FnOnce() -> R) -> Result<(R, Leaks), LeakError> {
    let _session = if trace::is_tracing() {
        None
    } else {
        Some(trace::Session::start(trace::Config::new()).map_err(LeakError::Trace)?)
    };
    let before = take(Config::new()).map_err(LeakError::Graph)?;
    let result = body();
    let after = take(Config::new()).map_err(LeakError::Graph)?;
    Ok((result, after.leaks_since(&before)))
}

/// Calls `body`, and panics if it leaked blocks: [`find_leaks`] for tests.
///
/// The message has the call stacks that allocated the leaked blocks; if they refer to each other in circles, it shows
/// one.
///
/// ```
/// # #[global_allocator] static GLOBAL: pymalloc::Pymalloc = pymalloc::Pymalloc::new();
/// let sum = pymalloc::graph::assert_no_leaks(|| {
///     (0..100).map(|number| Box::new(number)).map(|boxed| *boxed).sum::<u32>()
/// });
/// assert_eq!(sum, 4950);
/// ```
///
/// # Panics
/// If blocks were leaked, or if the search failed ([`LeakError`]).
#[track_caller]
pub fn assert_no_leaks<R>(body: impl FnOnce() -> R) -> R {
    match find_leaks(body) {
        Ok((result, leaks)) if leaks.is_empty() => result,
        Ok((_, leaks)) => panic!("leaked:\n{leaks}"),
        Err(error) => panic!("can't look for leaks: {error}"),
    }
}

os::at_start!(read_variable);

/// Reads `PYMALLOC_LEAKS`: with `1`, leaks are reported on stderr when the program exits.
extern "C" fn read_variable() {
    if cfg!(feature = "__raw") || !os::TRACES {
        return;
    }
    if os::environment(c"PYMALLOC_LEAKS").is_some_and(|value| !matches!(value, b"" | b"0"))
        && trace::start(trace::Config::new()).is_ok()
    {
        // Registered before the program's own exit functions, so it runs after them.
        os::on_exit(at_exit);
    }
}

extern "C" fn at_exit() {
    let text = match take(Config::new().go_on_without_threads()) {
        Ok(graph) => {
            let leaks = graph.leaks();
            if leaks.is_empty() {
                return;
            }
            let left = match graph.threads_left() {
                [] => String::new(),
                left => format!("pymalloc: threads that could not be stopped: {left:?}\n"),
            };
            format!("pymalloc: leaked at exit:\n{leaks}{left}")
        }
        Err(error) => format!("pymalloc: can't look for leaks: {error}\n"),
    };
    os::report_stderr(text.as_bytes());
}
