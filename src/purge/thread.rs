//! The purge thread, which gives memory back while the program's own threads sleep. It runs only in programs that start
//! it.

use core::ffi::c_void;
use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering};
use core::time::Duration;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use crate::cache::{GLOBAL, ThreadCache, with_thread};
use crate::os::fork;
use crate::os::{self, BYPASS, OwnThread};
use crate::purge::tick::Ticker;

/// The settings of a [`PurgeThread`]: how often it looks at the heap, and how much free memory it keeps.
///
/// ```
/// use pymalloc::purge::PurgeConfig;
/// use std::time::Duration;
///
/// let config = PurgeConfig::new().interval(Duration::from_millis(100)).keep_bytes(16 << 20);
/// # assert_eq!(config, config.clone());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[must_use]
pub struct PurgeConfig {
    interval: Duration,
    keep_bytes: usize,
}

impl PurgeConfig {
    /// The default settings: a look at the heap each second, and 4 MiB of free memory kept.
    pub const fn new() -> Self {
        Self { interval: Duration::from_secs(1), keep_bytes: 4 << 20 }
    }

    /// Sets the time between two looks at the heap: one second by default; it must not be zero. Memory goes back after
    /// one to three such intervals.
    pub const fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// Sets how much free memory is kept for the next need, in bytes: 4 MiB by default. The number bounds two things
    /// separately: the memory of pools that no thread owns, and the addresses of wholly free arenas.
    pub const fn keep_bytes(mut self, bytes: usize) -> Self {
        self.keep_bytes = bytes;
        self
    }
}

impl Default for PurgeConfig {
    fn default() -> Self {
        Self::new()
    }
}

/// A thread that gives memory back while the program's own threads sleep; it ends when this is dropped.
///
/// Without a purge thread, memory goes back only while threads allocate and free; what a sleeping thread has cached
/// stays until it calls the allocator again, or until a thread calls [`purge`](crate::purge()). At each tick, the purge
/// thread visits the caches of threads that made no slow call since the last tick: it flushes their depots, collects
/// remote frees into their pools, and returns their empty pools. Then, if the program took no new memory meanwhile, it
/// gives free memory back to the OS. Magazines, the innermost part of a thread's cache, belong to the thread alone and
/// stay: at most 32 KiB per size class; for medium classes, 128 KiB or eight blocks.
///
/// It uses no timer and no signal handler, blocks all signals (with the feature `graph`: all but the one that stops
/// threads), and allocates nothing while it runs. A process has at most one.
///
/// # Fork
/// A forked child has no purge thread. Its copy of this value does nothing when it is dropped, stopped or detached. The
/// child may start its own purge thread. Starting takes no lock of std's, because a thread that the child lacks might
/// hold it.
///
/// ```
/// # #[global_allocator] static GLOBAL: pymalloc::Pymalloc = pymalloc::Pymalloc::new();
/// use pymalloc::purge::{PurgeConfig, PurgeThread};
///
/// # fn main() -> std::io::Result<()> {
/// let purging = PurgeThread::start(PurgeConfig::default())?;
/// // … the program's life …
/// purging.stop();
/// # Ok(())
/// # }
/// ```
#[doc(alias = "background_thread")]
#[doc(alias = "dirty_decay_ms")]
#[doc(alias = "mi_option_purge_delay")]
#[derive(Debug)]
#[must_use = "the purge thread ends when this is dropped"]
pub struct PurgeThread {
    /// `None` if there is no heap to purge, or after the thread was stopped or detached.
    running: Option<Running>,
}

struct Running {
    work: Arc<Work>,
    thread: OwnThread,
    /// The process that has the thread, by its [`fork::generation`].
    process: u32,
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").field("config", &self.work.config).field("process", &self.process).finish()
    }
}

/// What the thread and its handle share.
struct Work {
    config: PurgeConfig,
    /// [`GOES_ON`] or [`STOPPED`]; the thread sleeps on it.
    state: AtomicU32,
}

const GOES_ON: u32 = 0;
const STOPPED: u32 = 1;

/// The process that has a purge thread, by its generation plus one; 0 for none.
static TAKEN_BY: AtomicU32 = AtomicU32::new(0);

impl PurgeThread {
    /// Starts a purge thread with these settings.
    ///
    /// With `--cfg pymalloc_bypass` and on unsupported platforms there is nothing to purge: no thread is started then.
    ///
    /// # Errors
    /// `InvalidInput` for an interval of zero, `AlreadyExists` if the process has a purge thread (a detached one
    /// included), and the system's error if it can't start a thread.
    pub fn start(config: PurgeConfig) -> io::Result<Self> {
        if config.interval.is_zero() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the interval is zero"));
        }
        if BYPASS {
            return Ok(Self { running: None });
        }
        let process = fork::generation();
        let own = process.wrapping_add(1);
        // Relaxed (all accesses to this word): a flag, which orders nothing else. A value that an ancestor process left
        // does not count.
        if TAKEN_BY
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken_by| (taken_by != own).then_some(own))
            .is_err()
        {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the process has a purge thread"));
        }
        let work = Arc::new(Work { config, state: AtomicU32::new(GOES_ON) });
        let for_thread = Arc::into_raw(Arc::clone(&work));
        // Not std's function: it takes locks of std's. In a forked child, a thread that does not exist there may hold
        // them for ever.
        match os::start_thread(run, for_thread.cast_mut().cast()) {
            Ok(thread) => Ok(Self { running: Some(Running { work, thread, process }) }),
            Err(error) => {
                // SAFETY: from `into_raw` above; no thread has it.
                drop(unsafe { Arc::from_raw(for_thread) });
                TAKEN_BY.store(0, Ordering::Relaxed);
                Err(io::Error::from_raw_os_error(error))
            }
        }
    }

    /// Ends the thread and waits for its end, as dropping does.
    pub fn stop(self) {
        drop(self);
    }

    /// Lets the thread run until the process ends.
    pub fn detach(mut self) {
        if let Some(Running { thread, .. }) = self.running.take().and_then(Running::abandon_in_child) {
            thread.detach();
        }
    }
}

impl Drop for PurgeThread {
    fn drop(&mut self) {
        if let Some(Running { work, thread, .. }) = self.running.take().and_then(Running::abandon_in_child) {
            // Relaxed: a flag, which orders nothing else; the futex and `join` order the rest.
            work.state.store(STOPPED, Ordering::Relaxed);
            os::futex_wake(&work.state);
            thread.join();
            TAKEN_BY.store(0, Ordering::Relaxed);
        }
    }
}

impl Running {
    /// In a forked child, where the thread does not exist, forgets the handle: it may be neither joined nor detached
    /// there.
    fn abandon_in_child(self) -> Option<Self> {
        if self.process == fork::generation() {
            return Some(self);
        }
        core::mem::forget(self);
        None
    }
}

/// The thread. It does not panic.
extern "C" fn run(work: *mut c_void) -> *mut c_void {
    // SAFETY: from `into_raw`, for this thread.
    let work = unsafe { Arc::from_raw(work.cast::<Work>().cast_const()) };
    OwnThread::begin(c"pymalloc-purge");
    // Relaxed: as in `drop`.
    let goes_on = || work.state.load(Ordering::Relaxed) == GOES_ON;
    let mut ticker = Ticker::new(&GLOBAL, work.config.keep_bytes);
    // Empties this thread's own cache, which starting it filled.
    with_thread(ThreadCache::shrink);
    while goes_on() {
        let slept = Instant::now();
        // May wake early.
        while goes_on()
            && let Some(rest) = work.config.interval.checked_sub(slept.elapsed())
            && !rest.is_zero()
        {
            os::futex_wait_for(&work.state, GOES_ON, rest);
        }
        ticker.tick(goes_on);
    }
    core::ptr::null_mut()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_stays_and_nothing_else_changes() {
        assert_eq!(PurgeConfig::default(), PurgeConfig { interval: Duration::from_secs(1), keep_bytes: 4 << 20 });
        let interval = Duration::from_millis(7);
        assert_eq!(PurgeConfig::new().interval(interval), PurgeConfig { interval, ..PurgeConfig::new() });
        assert_eq!(PurgeConfig::new().keep_bytes(9).interval(interval), PurgeConfig { interval, keep_bytes: 9 });
        assert_eq!(PurgeConfig::new().interval(interval).keep_bytes(9), PurgeConfig { interval, keep_bytes: 9 });
    }
}
