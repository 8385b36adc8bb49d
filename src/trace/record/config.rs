//! [`Config`]: how to trace.

use core::fmt;

use super::capture::FRAMES_MAX;

/// How to trace: how many frames, and which allocations.
///
/// ```
/// use pymalloc::trace::Config;
///
/// let everything = Config::new().frames(16);
/// let in_production = Config::new().sample_every(512 * 1024);
/// # let _ = (everything, in_production);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[must_use]
pub struct Config {
    pub(in crate::trace) frames: usize,
    pub(in crate::trace) interval: Option<usize>,
    pub(in crate::trace) keeps_peak: bool,
    pub(in crate::trace) system_unwinder: bool,
}

impl Config {
    /// The most frames that a trace can have.
    pub const FRAMES_MAX: usize = FRAMES_MAX;
    /// The longest mean interval between samples, in bytes.
    pub const INTERVAL_MAX: usize = 1 << if usize::BITS > 40 { 40 } else { usize::BITS - 1 };

    /// Traces every allocation, with up to 32 frames.
    pub const fn new() -> Self {
        Self { frames: 32, interval: None, keeps_peak: false, system_unwinder: false }
    }

    /// Sets the most frames per trace, 1 to [`FRAMES_MAX`](Self::FRAMES_MAX); the innermost ones are kept.
    ///
    /// A frame is a call that the machine made. Calls that the compiler inlined into it come with it and are not
    /// counted. The frames of this allocator are neither kept nor counted.
    #[doc(alias = "nframe")]
    #[doc(alias = "PYTHONTRACEMALLOC")]
    pub const fn frames(mut self, frames: usize) -> Self {
        self.frames = frames;
        self
    }

    /// Samples one allocation every `bytes` allocated, on average: 1 to [`INTERVAL_MAX`](Self::INTERVAL_MAX).
    ///
    /// Bytes and blocks are then unbiased estimates, and come with their standard error
    /// ([`Statistic::bytes_error`](crate::trace::Statistic::bytes_error)). Large blocks are more likely to be sampled:
    /// a block of `s` bytes is sampled with probability `1 − exp(−s / bytes)`.
    #[doc(alias = "lg_prof_sample")]
    pub const fn sample_every(mut self, bytes: usize) -> Self {
        self.interval = Some(bytes);
        self
    }

    /// Keeps a copy of what is live at the peak, for [`take_peak_snapshot`](crate::trace::take_peak_snapshot).
    ///
    /// Whenever the traced bytes have grown by an eighth since the last copy, the allocating thread copies the tables.
    /// In a large program that is a long pause, and the copy takes memory.
    pub const fn keep_peak(mut self) -> Self {
        self.keeps_peak = true;
        self
    }

    /// Lets the system's unwinder (libgcc's or LLVM's) walk the stacks that this crate's own walk does not understand.
    ///
    /// Use it only if stacks are cut short without it, and the program makes no code at run time. It has two hazards.
    /// It allocates while it holds a lock that it also takes for each walk: so a program that registers unwind
    /// information (`__register_frame`) hangs. And it aborts the program on frames that it can't make sense of. It
    /// needs some 8 KiB of stack.
    ///
    /// On processors other than x86-64 and AArch64 it does every walk, even if it is not asked for.
    pub const fn system_unwinder(mut self) -> Self {
        self.system_unwinder = true;
        self
    }

    pub(in crate::trace) fn check(self) -> Result<(), StartError> {
        if !(1..=Self::FRAMES_MAX).contains(&self.frames) {
            return Err(StartError::Frames(self.frames));
        }
        match self.interval {
            Some(bytes) if !(1..=Self::INTERVAL_MAX).contains(&bytes) => Err(StartError::Interval(bytes)),
            _ => Ok(()),
        }
    }

    /// The mean interval between samples; 0 for every allocation.
    pub(in crate::trace) fn interval_bytes(self) -> u64 {
        self.interval.unwrap_or(0) as u64
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::new()
    }
}

/// Why tracing did not start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StartError {
    /// The number of frames is 0, or more than [`Config::FRAMES_MAX`].
    Frames(usize),
    /// The bytes between samples are 0, or more than [`Config::INTERVAL_MAX`].
    Interval(usize),
    /// Tracing is on already; it goes on as it was.
    AlreadyTracing,
    /// Tracing is not supported on this platform, nor under Miri.
    Unsupported,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frames(frames) => {
                write!(f, "the number of frames must be in range [1; {}], not {frames}", Config::FRAMES_MAX)
            }
            Self::Interval(bytes) => {
                write!(f, "the bytes between samples must be in range [1; {}], not {bytes}", Config::INTERVAL_MAX)
            }
            Self::AlreadyTracing => write!(f, "memory allocations are being traced already"),
            Self::Unsupported => write!(f, "memory allocations can't be traced on this platform"),
        }
    }
}

impl core::error::Error for StartError {}
