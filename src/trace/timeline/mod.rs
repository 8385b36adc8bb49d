//! Memory over time: [`Timeline`] records it, [`Recording`] reads what was recorded.
//!
//! | file | does |
//! |---|---|
//! | `record/timeline` | takes samples and writes them |
//! | `sampler` | the thread that takes them at regular times |
//! | `decode` | decodes records from bytes that can't be trusted |
//! | `recording` | what was recorded, with names |
//! | `text`, `page` | for a terminal, for a browser |

pub(in crate::trace) mod decode;
mod page;
mod recording;
mod sampler;
mod text;

use core::fmt;
use core::time::Duration;
use std::ffi::CString;
use std::io;
use std::path::Path;

use super::guard::Session;
use super::record::config::{Config, StartError};
use super::record::session;
use super::record::state::Busy;
use super::record::timeline::{self, Failure};
use crate::os::fork;
use sampler::Sampler;

pub use recording::{Moment, Recording, RecordingError};

/// How to record a timeline.
///
/// ```
/// use pymalloc::trace::{Config, TimelineConfig};
/// use std::time::Duration;
///
/// let config = TimelineConfig::new().interval(Duration::from_millis(20)).trace(Config::new().frames(64));
/// # assert_eq!(config, config.clone());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[must_use]
pub struct TimelineConfig {
    interval: Duration,
    trace: Config,
}

impl TimelineConfig {
    /// The shortest time between samples.
    pub const INTERVAL_MIN: Duration = Duration::from_millis(1);
    /// The longest time between samples.
    pub const INTERVAL_MAX: Duration = Duration::from_secs(3600);

    /// Takes a sample every 100 ms, and traces every block with up to 32 frames.
    pub const fn new() -> Self {
        Self { interval: Duration::from_millis(100), trace: Config::new() }
    }

    /// Sets the time between samples, from [`INTERVAL_MIN`](Self::INTERVAL_MIN) to
    /// [`INTERVAL_MAX`](Self::INTERVAL_MAX), by default 100 ms.
    ///
    /// It doubles after each 4096 samples, so that a file does not grow without bound.
    pub const fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// Sets how to trace, if the program is not traced already.
    pub const fn trace(mut self, config: Config) -> Self {
        self.trace = config;
        self
    }
}

impl Default for TimelineConfig {
    fn default() -> Self {
        Self::new()
    }
}

/// Why a timeline could not be started, or ended early.
#[derive(Debug)]
#[non_exhaustive]
pub enum TimelineError {
    /// The time between samples is out of range.
    Interval(Duration),
    /// The program could not be traced.
    Start(StartError),
    /// There is a timeline already; it goes on.
    AlreadyRecording,
    /// The file could not be opened or written (a pipe, a device or a folder is no place for it).
    Io(io::Error),
    /// The program closed the file, and another one has its name.
    Replaced,
    /// The OS gave no memory for a sample; what was written before is good.
    NoMemory,
    /// This is a forked child: its parent goes on with the timeline, the child has none.
    Forked,
}

impl fmt::Display for TimelineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Interval(interval) => write!(f, "the time between samples is 1 ms to an hour, not {interval:?}"),
            Self::Start(error) => error.fmt(f),
            Self::AlreadyRecording => write!(f, "a timeline is being recorded already"),
            Self::Io(error) => write!(f, "the timeline's file: {error}"),
            Self::Replaced => write!(f, "the program closed the timeline's file, and another one has its name"),
            Self::NoMemory => write!(f, "no memory for a sample of the timeline"),
            Self::Forked => write!(f, "a forked child has no timeline"),
        }
    }
}

impl core::error::Error for TimelineError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            Self::Start(error) => Some(error),
            _ => None,
        }
    }
}

impl From<Failure> for TimelineError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Write(error) => Self::Io(io::Error::from_raw_os_error(error)),
            Failure::Replaced => Self::Replaced,
            Failure::Memory => Self::NoMemory,
        }
    }
}

/// Records memory over time to a file, until it is stopped or dropped.
///
/// A sample is taken at each interval, and whenever the live bytes have grown to a sixteenth above the highest sample.
/// It has the totals, and the changes since the last sample: by call stack, and by the interval in which the blocks
/// were allocated. So a [`Recording`] can tell what was live at each sample, and what was allocated between two samples
/// and not freed by the second.
///
/// A thread of its own takes the samples. It allocates nothing from the program's heap, looks up no names, and blocks
/// all signals. What is written can be read at any time: if the program is killed, only the last moments are missing.
///
/// # Fork
/// A forked child records nothing; its parent goes on. The child's copy of this value returns
/// [`TimelineError::Forked`] when it is [stopped](Self::stop).
///
/// ```
/// # #[global_allocator] static GLOBAL: pymalloc::Pymalloc = pymalloc::Pymalloc::new();
/// use pymalloc::trace::{Recording, Timeline, TimelineConfig};
///
/// # let folder = std::env::temp_dir().join(format!("pymalloc-timeline-{}", std::process::id()));
/// # std::fs::create_dir_all(&folder)?;
/// # std::env::set_current_dir(&folder)?;
/// let timeline = Timeline::start("out.timeline", TimelineConfig::new())?;
/// drop(vec![1_u8; 1 << 20]);
/// timeline.stop()?;
///
/// let recording = Recording::load("out.timeline")?;
/// assert!(recording.peak().is_some_and(|peak| peak.bytes_peak >= 1 << 20));
/// println!("{recording}"); // for a terminal
/// recording.save_page("out.html")?; // for a browser
/// # std::fs::remove_dir_all(&folder)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "the timeline ends when this is dropped"]
pub struct Timeline {
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    sampler: Sampler,
    number: u32,
    /// The process that records, by its [`fork::generation`].
    process: u32,
    /// Tracing that began with the timeline.
    session: Option<Session>,
}

impl Timeline {
    /// Begins to record to a file, which is made or emptied.
    ///
    /// If the program is not traced yet, tracing begins and ends with the timeline.
    ///
    /// # Errors
    /// See [`TimelineError`]; nothing has changed then.
    pub fn start(path: impl AsRef<Path>, config: TimelineConfig) -> Result<Self, TimelineError> {
        if !(TimelineConfig::INTERVAL_MIN..=TimelineConfig::INTERVAL_MAX).contains(&config.interval) {
            return Err(TimelineError::Interval(config.interval));
        }
        let path = std::path::absolute(path.as_ref()).map_err(TimelineError::Io)?;
        let path = CString::new(path.into_os_string().into_encoded_bytes())
            .map_err(|_| TimelineError::Io(io::ErrorKind::InvalidInput.into()))?;
        let session = match Session::start(config.trace) {
            Ok(session) => Some(session),
            Err(StartError::AlreadyTracing) => None,
            Err(error) => return Err(TimelineError::Start(error)),
        };
        let busy = Busy::enter();
        let number = session::begin_timeline(&path, config.interval, &busy)
            .map_err(|error| TimelineError::Io(io::Error::from_raw_os_error(error)))?
            .ok_or(TimelineError::AlreadyRecording)?;
        match Sampler::start(config.interval) {
            Ok(sampler) => {
                Ok(Self { running: Some(Running { sampler, number, process: fork::generation(), session }) })
            }
            Err(error) => {
                timeline::end(Some(number), &busy);
                Err(TimelineError::Io(error))
            }
        }
    }

    /// Takes a last sample and ends the timeline.
    ///
    /// # Errors
    /// If something has gone wrong since it began: then the file ends at that time, and what was written before is
    /// good. In a forked child it is [`TimelineError::Forked`].
    pub fn stop(mut self) -> Result<(), TimelineError> {
        self.end()
    }

    fn end(&mut self) -> Result<(), TimelineError> {
        let Some(Running { sampler, number, process, session }) = self.running.take() else { return Ok(()) };
        if process != fork::generation() {
            // Neither the thread nor the timeline is the child's.
            core::mem::forget(sampler);
            return Err(TimelineError::Forked);
        }
        let busy = Busy::enter();
        sampler.stop();
        let failure = timeline::end(Some(number), &busy);
        drop(session);
        failure.map_or(Ok(()), |failure| Err(failure.into()))
    }
}

impl Drop for Timeline {
    fn drop(&mut self) {
        // A caller that wants to know of failures calls `stop`.
        let _ = self.end();
    }
}
