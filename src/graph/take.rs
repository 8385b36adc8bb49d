//! Takes a graph of a running program.

use core::hint::black_box;
use std::time::{Duration, Instant};

use super::build;
use super::config::{Config, Error};
use super::found::{Module, Received};
use super::modules;
use super::scan::{self, Input, ScanError};
use super::stop::{self, Failure, Order};
use super::{HeapGraph, Progress};
use crate::os;
use crate::os::fork::AllLocks;
use crate::os::tasks::{self, Interrupted};
use crate::trace::access::{self, Busy};

/// The scan, once the threads go on: under way in a copy, or done.
enum Scan {
    Copy(scan::Copied),
    InProcess(scan::InProcess),
}

/// With `go_on_without_threads`, a thread that blocks the signal for this long is left.
const LEFT_AFTER: Duration = Duration::from_millis(100);
/// How long the threads may stand in the first attempt, before all have arrived. Each further attempt has twice as long,
/// up to the second number.
const WINDOW_MIN: Duration = Duration::from_millis(20);
const WINDOW_MAX: Duration = Duration::from_millis(640);
/// The longest time between two attempts.
const NAP_MAX: Duration = Duration::from_millis(100);
/// More than any program runs.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// A stopwatch. When it is dropped, it adds the time since its start to a sum.
struct Counts<'sum>(Instant, &'sum mut Duration);

impl Drop for Counts<'_> {
    fn drop(&mut self) {
        *self.1 += self.0.elapsed();
    }
}

/// What came of one attempt to stop the other threads.
enum Attempt {
    Done(Scan),
    /// Some threads could not be stopped, and the caller wants no graph without them.
    NotStopped,
    /// A thread blocks the signal or does not arrive, perhaps only for the moment.
    Again,
}

/// What was done while the other threads stood still: the scan, and what is known of the threads.
struct Stood {
    scan: Scan,
    /// The kernel's numbers of the threads whose stacks are roots, the caller's first.
    threads: Vec<u32>,
    left: Vec<u32>,
    pause: Duration,
}

/// Takes a graph. It is not inlined, so that the stack above its frame is the caller's.
#[inline(never)]
pub(super) fn take(config: Config, progress: &mut dyn FnMut(Progress)) -> Result<HeapGraph, Error> {
    let (pc, sp, bp) = access::here();
    let registers = callee_saved();
    let saved = (&raw const registers).addr().min(sp) & !7;
    let own = Interrupted {
        thread: os::thread_id(),
        saved,
        pc,
        sp,
        bp,
        block: os::thread_token(),
        pointer: tasks::thread_pointer(),
    };
    let busy = Busy::enter();
    let (session, every_block) = access::session().ok_or(Error::NotTracing)?;
    if !every_block {
        return Err(Error::Sampled);
    }
    let modules = modules::all();
    let stood = stand(config, own, &modules)?;
    // Only the scan reads the registers: the compiler must keep them until here.
    black_box(&registers);
    let received = match stood.scan {
        Scan::Copy(copied) => copied.receive(&mut |done, total| progress(Progress::Scanned { done, total })),
        Scan::InProcess(tables) => tables.take(),
    };
    let received: Received = received.map_err(|failure| match failure {
        scan::Failure::Scan(error) => of_scan(error),
        scan::Failure::Ended(status) => Error::CopyFailed(status),
        scan::Failure::Garbled => Error::CopyGarbled,
    })?;
    let mut graph = build::graph(received, session, modules, &stood.threads, &busy, progress);
    graph.pause = stood.pause;
    graph.threads_left = stood.left;
    access::release_debug_information();
    Ok(graph)
}

const fn of_scan(error: ScanError) -> Error {
    match error {
        ScanError::Memory => Error::OutOfMemory,
        ScanError::TooLarge => Error::TooLarge,
        ScanError::System(error) => Error::System(error),
    }
}

/// Stops the other threads, and makes a copy of the process, which scans. If there can be no copy, scans the memory
/// itself.
fn stand(config: Config, own: Interrupted, modules: &[Module]) -> Result<Stood, Error> {
    tasks::receive_by(stop::receive);
    let signal = tasks::signal().ok_or(Error::NoSignal)?;
    let until = Instant::now() + config.patience.min(FOR_EVER);
    let (mut pause, mut window) = (Duration::ZERO, WINDOW_MIN);
    loop {
        let now = Instant::now();
        let looks = if config.goes_on { until.min(now + LEFT_AFTER) } else { until };
        let blocking = stop::blocking(signal, looks);
        if !blocking.is_empty() && !config.goes_on {
            return Err(Error::NotStopped { threads: blocking });
        }
        let is_last = Instant::now() + window >= until || (config.goes_on && window > LEFT_AFTER);
        let order = Order { signal, blocking: &blocking, window, is_last };
        if let Some(stood) = stand_once(&order, config, own, modules, &mut pause)? {
            return Ok(stood);
        }
        // The threads run before they are stopped again: for as long as they may have stood, up to `NAP_MAX`.
        std::thread::sleep(window.min(NAP_MAX));
        window = (window * 2).min(WINDOW_MAX);
    }
}

/// As [`stand`]; `None` if that is to be tried again. Adds how long the threads stood to `pause`.
fn stand_once(
    order: &Order<'_>,
    config: Config,
    own: Interrupted,
    modules: &[Module],
    pause: &mut Duration,
) -> Result<Option<Stood>, Error> {
    // Room for numbers of threads: nothing is allocated while they stand.
    let (mut threads, mut left) = (Vec::with_capacity(1 << 16), Vec::with_capacity(1 << 16));
    // Another thread that takes a graph must be able to stop this one while it waits for the locks.
    let result = tasks::with_other_signals_blocked(order.signal, || {
        let locks = AllLocks::take().ok_or(Error::Forking)?;
        let _counts = Counts(Instant::now(), pause);
        let stopped = match stop::stop(order) {
            Ok(stopped) => stopped,
            Err(Failure::Blocks) => return Ok(Attempt::Again),
            Err(Failure::Memory) => return Err(Error::OutOfMemory),
            Err(Failure::NoList(error)) => return Err(Error::System(error)),
        };
        let room = left.capacity();
        left.extend(stopped.left.iter().copied().take(room));
        if !left.is_empty() && !config.goes_on {
            return Ok(Attempt::NotStopped);
        }
        let room = threads.capacity();
        threads.extend(core::iter::once(own.thread).chain(stopped.standing.iter().map(|said| said.thread)).take(room));
        let input = Input { own, standing: &stopped.standing, modules, all_stand: left.is_empty() };
        // SAFETY: all locks are held, and all threads stand still, except those that could not be stopped.
        let scan = unsafe { run(config, &input) };
        drop(stopped);
        drop(locks);
        scan.map(Attempt::Done)
    })?;
    match result {
        Attempt::Done(scan) => Ok(Some(Stood { scan, threads, left, pause: *pause })),
        Attempt::NotStopped => Err(Error::NotStopped { threads: left }),
        Attempt::Again => Ok(None),
    }
}

/// # Safety
/// As for [`scan::in_copy`].
unsafe fn run(config: Config, input: &Input<'_>) -> Result<Scan, Error> {
    if !config.in_process {
        // SAFETY: the caller's promise.
        if let Ok(copied) = unsafe { scan::in_copy(input) } {
            return Ok(Scan::Copy(copied));
        }
    }
    // SAFETY: as above.
    unsafe { scan::in_process(input) }.map(Scan::InProcess).map_err(of_scan)
}

/// The registers in which the callers may keep values.
#[inline(always)]
fn callee_saved() -> [usize; 6] {
    let mut registers = [0; 6];
    #[cfg(target_arch = "x86_64")]
    // SAFETY: stores registers into an array of that length.
    unsafe {
        core::arch::asm!(
            "mov [{place}], rbx",
            "mov [{place} + 8], rbp",
            "mov [{place} + 16], r12",
            "mov [{place} + 24], r13",
            "mov [{place} + 32], r14",
            "mov [{place} + 40], r15",
            place = in(reg) registers.as_mut_ptr(),
            options(nostack, preserves_flags),
        );
    }
    #[cfg(target_arch = "aarch64")]
    {
        // Callers' values are in these registers, or this crate's functions have saved them in their frames.
        let mut further = [0_usize; 4];
        // SAFETY: stores registers into arrays of these lengths.
        unsafe {
            core::arch::asm!(
                "stp x19, x20, [{place}]",
                "stp x21, x22, [{place}, #16]",
                "stp x23, x24, [{place}, #32]",
                "stp x25, x26, [{further}]",
                "stp x27, x28, [{further}, #16]",
                place = in(reg) registers.as_mut_ptr(),
                further = in(reg) further.as_mut_ptr(),
                options(nostack, preserves_flags),
            );
        }
        black_box(&further);
    }
    registers
}
