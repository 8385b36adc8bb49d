//! [`Config`], how to take a graph, and [`Error`], why none was taken.

use core::fmt;
use core::time::Duration;

/// How to take a graph.
///
/// ```
/// use pymalloc::graph::Config;
///
/// let config = Config::new().go_on_without_threads();
/// # let _ = config;
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[must_use]
pub struct Config {
    pub(super) in_process: bool,
    pub(super) patience: Duration,
    pub(super) goes_on: bool,
}

impl Config {
    /// Scans in a copy of the process, waits five seconds for the threads to stop, and fails if one can't be stopped.
    ///
    /// If the system makes no copy, the process itself is scanned.
    pub const fn new() -> Self {
        Self { in_process: false, patience: Duration::from_secs(5), goes_on: false }
    }

    /// Scans in the process itself, while its threads stand still: the pause is longer, but no copy is needed.
    ///
    /// This is done anyway if the system makes no copy.
    pub const fn in_process(mut self) -> Self {
        self.in_process = true;
        self
    }

    /// Sets how long to wait in all for the threads to stop; by default five seconds.
    ///
    /// The threads run on while it waits for one that blocks signals. They stand while it waits for one that is slow.
    pub const fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Takes the graph even if threads can't be stopped, because they block signals; a thread that does so for 100 ms is
    /// left.
    ///
    /// Their stacks then count as foreign memory, and references in their registers are not found.
    /// [`HeapGraph::threads_left`] names these threads.
    ///
    /// [`HeapGraph::threads_left`]: super::HeapGraph::threads_left
    pub const fn go_on_without_threads(mut self) -> Self {
        self.goes_on = true;
        self
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::new()
    }
}

/// Why no graph was taken. The program goes on as it was.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Error {
    /// The tracer is off: only it knows which calls allocated which block.
    NotTracing,
    /// The tracer samples: a graph needs every block.
    Sampled,
    /// No graph can be taken on this platform, nor under Miri.
    Unsupported,
    /// The call came from a fork handler.
    Forking,
    /// These threads, by the kernel's numbers, block the signal all the time or did not stop in time.
    NotStopped {
        /// The kernel's numbers of the threads.
        threads: Vec<u32>,
    },
    /// The program uses all real-time signals.
    NoSignal,
    /// The OS gives no memory for the graph.
    OutOfMemory,
    /// More than 2³¹ blocks, or 2³² references.
    TooLarge,
    /// The copy of the process ended before its scan was done, with this status of `wait`: the OS may have been short
    /// of memory.
    CopyFailed(i32),
    /// The copy of the process sent something that is no result: its memory, which is the program's, may be damaged.
    CopyGarbled,
    /// The system refuses to list the threads or the memory of the process, with this error number.
    System(i32),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotTracing => write!(f, "memory allocations must be traced to take a graph of the heap"),
            Self::Sampled => write!(f, "every allocation must be traced, not a sample, to take a graph of the heap"),
            Self::Unsupported => write!(f, "no graph of the heap can be taken on this platform"),
            Self::Forking => write!(f, "no graph of the heap can be taken in a fork handler"),
            Self::NotStopped { threads } => write!(f, "threads could not be stopped: {threads:?}"),
            Self::NoSignal => write!(f, "no real-time signal is free for stopping threads"),
            Self::OutOfMemory => write!(f, "no memory for a graph of the heap"),
            Self::TooLarge => write!(f, "too many blocks or references for a graph of the heap"),
            Self::CopyFailed(status) => write!(f, "the scanning copy of the process ended with status {status:#x}"),
            Self::CopyGarbled => write!(f, "the scanning copy of the process sent something that is no result"),
            Self::System(error) => {
                write!(f, "reading /proc/self: {}", std::io::Error::from_raw_os_error(*error))
            }
        }
    }
}

impl core::error::Error for Error {}
