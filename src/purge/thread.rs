//! The purge thread, which gives memory back while the program's own threads sleep. Nobody has one who does not ask.

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use core::time::Duration;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use crate::cache::{GLOBAL, ThreadCache, with_thread};
use crate::os::fork;
use crate::os::{self, BYPASS};
use crate::purge::tick::Ticker;

/// How a [`PurgeThread`] works.
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
    /// A look each second, and 4 MiB to keep.
    pub const fn new() -> Self {
        Self { interval: Duration::from_secs(1), keep_bytes: 4 << 20 }
    }

    /// The time between two looks at the heap, by default one second; not zero. Memory goes back after one to three of
    /// them.
    pub const fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// Bytes of free memory that stay for the next need, by default 4 MiB: of pools that no thread owns, and as much
    /// of addresses in whole arenas.
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
/// Without it, memory goes back when threads allocate and free, and what they leave on the way there stays until one of
/// them calls again (or calls [`purge`](crate::purge())). At each tick, the purge thread brings home what threads that
/// made no call of note since the last one have left, and, if the program took no new memory meanwhile, gives what is
/// free back to the OS. The innermost part of a thread's cache, its magazines, is the thread's alone and stays: at most
/// 32 KiB a size class.
///
/// It uses no timer and no signal handler, all signals are blocked in it, and it makes no allocation while it runs. A
/// process has one at most.
///
/// # Fork
/// The forked child has no purge thread; what it inherits of this value does nothing when dropped, stopped or detached.
/// The child may start its own.
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
    /// `None` when there is no heap to purge, and once it was stopped or detached.
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
    /// The process that has the thread, by its [`fork::generation`].
    process: u32,
}

/// The process that has a purge thread, by its generation plus one; 0 for none.
static TAKEN_BY: AtomicU32 = AtomicU32::new(0);

impl PurgeThread {
    /// Starts the thread.
    ///
    /// With `--cfg pymalloc_bypass` and on platforms without support there is nothing to purge: then no thread is started.
    ///
    /// # Errors
    /// `InvalidInput` for an interval of zero, `AlreadyExists` if the process has a purge thread (a detached one
    /// included), and what the system says when it can't start a thread.
    pub fn start(config: PurgeConfig) -> io::Result<Self> {
        if config.interval.is_zero() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the interval is zero"));
        }
        if BYPASS {
            return Ok(Self { running: None });
        }
        let process = fork::generation();
        let own = process.wrapping_add(1);
        // Relaxed (all of this word): a flag alone. One that an ancestor left does not count.
        if TAKEN_BY
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken_by| (taken_by != own).then_some(own))
            .is_err()
        {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the process has a purge thread"));
        }
        let stop = Arc::new(AtomicBool::new(false));
        let stop_there = Arc::clone(&stop);
        let thread = os::with_signals_blocked(|| {
            thread::Builder::new().name("pymalloc-purge".into()).spawn(move || run(&config, &stop_there))
        });
        match thread {
            Ok(thread) => Ok(Self { running: Some(Running { stop, thread, process }) }),
            Err(error) => {
                TAKEN_BY.store(0, Ordering::Relaxed);
                Err(error)
            }
        }
    }

    /// Ends the thread, and waits until it has: as dropping does.
    pub fn stop(self) {
        drop(self);
    }

    /// Lets the thread run until the process ends.
    pub fn detach(mut self) {
        if let Some(running) = self.running.take() {
            running.abandon_in_child();
        }
    }
}

impl Drop for PurgeThread {
    fn drop(&mut self) {
        if let Some(Running { stop, thread, .. }) = self.running.take().and_then(Running::abandon_in_child) {
            // Relaxed: a flag alone; `unpark` and `join` order the rest.
            stop.store(true, Ordering::Relaxed);
            thread.thread().unpark();
            // It does not panic.
            let _ = thread.join();
            TAKEN_BY.store(0, Ordering::Relaxed);
        }
    }
}

impl Running {
    /// In a forked child, where there is no such thread: forgets the handle, which may be neither joined nor detached.
    fn abandon_in_child(self) -> Option<Self> {
        if self.process == fork::generation() {
            return Some(self);
        }
        core::mem::forget(self);
        None
    }
}

/// The thread.
fn run(config: &PurgeConfig, stop: &AtomicBool) {
    // Relaxed: as in `drop`.
    let goes_on = || !stop.load(Ordering::Relaxed);
    let mut ticker = Ticker::new(&GLOBAL, config.keep_bytes);
    // What its start left in its own cache.
    with_thread(ThreadCache::shrink);
    while goes_on() {
        let slept = Instant::now();
        // May wake early.
        while goes_on()
            && let Some(rest) = config.interval.checked_sub(slept.elapsed())
            && !rest.is_zero()
        {
            thread::park_timeout(rest);
        }
        ticker.tick(goes_on);
    }
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
