//! The thread that has a timeline's samples taken.

use core::ffi::c_void;
use core::sync::atomic::{AtomicU32, Ordering};
use core::time::Duration;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use crate::os::{self, OwnThread};
use crate::trace::record::state::Busy;
use crate::trace::record::timeline;

/// After so many samples the time between them doubles.
const SAMPLES_BEFORE_DOUBLING: u32 = 4096;

const GOES_ON: u32 = 0;
const STOPPED: u32 = 1;

/// What the thread is given.
struct Work {
    interval: Duration,
    /// [`GOES_ON`] or [`STOPPED`]; the thread sleeps on it.
    state: AtomicU32,
}

pub(super) struct Sampler {
    work: Arc<Work>,
    thread: OwnThread,
}

impl fmt::Debug for Sampler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sampler").field("interval", &self.work.interval).finish_non_exhaustive()
    }
}

impl Sampler {
    /// The caller is [`Busy`].
    pub(super) fn start(interval: Duration) -> io::Result<Self> {
        let work = Arc::new(Work { interval, state: AtomicU32::new(GOES_ON) });
        let for_thread = Arc::into_raw(Arc::clone(&work));
        match os::start_thread(run, for_thread.cast_mut().cast()) {
            Ok(thread) => Ok(Self { work, thread }),
            Err(error) => {
                // SAFETY: from `into_raw` above; no thread has it.
                drop(unsafe { Arc::from_raw(for_thread) });
                Err(io::Error::from_raw_os_error(error))
            }
        }
    }

    /// Waits until the thread has ended.
    pub(super) fn stop(self) {
        // Relaxed: a flag alone; the futex and `join` order the rest.
        self.work.state.store(STOPPED, Ordering::Relaxed);
        os::futex_wake(&self.work.state);
        self.thread.join();
    }
}

/// The thread. It does not panic, and allocates nothing.
extern "C" fn run(work: *mut c_void) -> *mut c_void {
    // What the C library allocates for the thread is the tracer's, too.
    let busy = Busy::enter();
    // SAFETY: from `into_raw`, for this thread.
    let work = unsafe { Arc::from_raw(work.cast::<Work>().cast_const()) };
    OwnThread::name_this(c"pymalloc-time");
    // Relaxed: as in `stop`.
    let goes_on = || work.state.load(Ordering::Relaxed) == GOES_ON;
    let (mut interval, mut samples) = (work.interval, 0);
    let mut due = Instant::now() + interval;
    while goes_on() {
        // May wake early.
        let rest = due.saturating_duration_since(Instant::now());
        if !rest.is_zero() {
            os::futex_wait_for(&work.state, GOES_ON, rest);
            continue;
        }
        if !timeline::sample(&busy) {
            break;
        }
        samples += 1;
        if samples % SAMPLES_BEFORE_DOUBLING == 0 {
            interval = interval.saturating_mul(2);
        }
        // One that came late is not made up for.
        due = (due + interval).max(Instant::now());
    }
    drop(work);
    core::ptr::null_mut()
}
