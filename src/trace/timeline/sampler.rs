//! The thread that takes a timeline's samples.

use core::ffi::c_void;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use crate::os::{self, OwnThread};
use crate::trace::record::state::Busy;
use crate::trace::record::timeline::{self, Kind};

/// The time between samples doubles each time that this many have been taken.
const SAMPLES_BEFORE_DOUBLING: u32 = 4096;

/// What the thread works with.
struct Work {
    interval: Duration,
    is_stopped: AtomicBool,
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
        let work = Arc::new(Work { interval, is_stopped: AtomicBool::new(false) });
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
        // Relaxed: ordered by the Release of `call_sampler` below, which pairs with the thread's Acquire.
        self.work.is_stopped.store(true, Ordering::Relaxed);
        timeline::call_sampler();
        self.thread.join();
    }
}

/// The thread. It does not panic, and allocates nothing.
extern "C" fn run(work: *mut c_void) -> *mut c_void {
    // What the C library allocates for the thread is the tracer's, too.
    let busy = Busy::enter();
    // SAFETY: from `into_raw`, for this thread.
    let work = unsafe { Arc::from_raw(work.cast::<Work>().cast_const()) };
    OwnThread::begin(c"pymalloc-time");
    let (mut interval, mut samples) = (work.interval, 0);
    let mut due = Instant::now() + interval;
    loop {
        // Acquire: pairs with the Release of `call_sampler`.
        let is_called = timeline::CALL.swap(0, Ordering::Acquire) != 0;
        // Relaxed: written before the call.
        if work.is_stopped.load(Ordering::Relaxed) || (is_called && !timeline::sample(Kind::Peak, &busy)) {
            break;
        }
        // May wake early.
        let rest = due.saturating_duration_since(Instant::now());
        if !rest.is_zero() {
            os::futex_wait_for(&timeline::CALL, 0, rest);
            continue;
        }
        if !timeline::sample(Kind::Regular, &busy) {
            break;
        }
        samples += 1;
        if samples % SAMPLES_BEFORE_DOUBLING == 0 {
            interval = interval.saturating_mul(2);
        }
        // A late sample is not made up for.
        due = (due + interval).max(Instant::now());
    }
    drop(work);
    core::ptr::null_mut()
}
