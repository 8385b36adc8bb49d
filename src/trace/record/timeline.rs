//! What a timeline records: samples of what is live, as changes from one to the next.
//!
//! # How
//! Time is cut into intervals. The tables (`blocks`) sum up what changes within one, by the stack and the interval that
//! the blocks come from. A sample takes these sums, begins the next interval, and writes them. The sampler's thread does
//! that at its time, and an allocating thread when what is live has grown by a sixteenth beyond the last peak: that one
//! only keeps its record in memory, and the sampler's thread writes it to the file.
//!
//! # Memory
//! All is straight from the OS, nothing from the heap that is watched, and no name is looked up.
//!
//! # Locks
//! `RECORDER` comes after `SYMBOLS` and before the heap's, of which the state's is taken under it (to count arenas). It
//! is held while the file is written. No call inside the allocator waits for it.
//!
//! # Fork
//! The child has no thread that samples: its recorder is closed, its tables note no changes any more.

use core::ffi::{CStr, c_int};
use core::sync::atomic::{AtomicU32, Ordering};
use core::time::Duration;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::blocks;
use super::config::Config;
use super::encode::{self, Defined, Records};
use super::peaks;
use super::stacks;
use super::state::Busy;
use super::sums::Sums;
use super::walk;
use crate::base::config::ARENA_BYTES;
use crate::cache::GLOBAL;
use crate::os::{self, Descriptor, Identity, fork};
use crate::protocols::lock::Lock;

/// Why a sample is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::trace) enum Kind {
    Regular = 0,
    Peak = 1,
    Last = 2,
}

/// Why a timeline ended before its time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::trace) enum Failure {
    /// The system's number of the error.
    Write(c_int),
    /// The program has closed the descriptor, and another file has the name.
    Replaced,
    Memory,
}

/// Samples at peaks begin here, and come at each further sixteenth.
const PEAK_MIN_BYTES: u64 = 1 << 16;
/// Bytes of stack that a sample takes at most, in any build.
const SAMPLE_STACK_BYTES: usize = 32 << 10;
/// Records wait in memory for the sampler's thread; if there are more bytes, a thread at a peak leaves it out.
const WAITING_BYTES_MAX: usize = 64 << 20;
/// The least number of the file's descriptor: programs close, and look at, what is below (as `preload/src/kept.rs`).
const NUMBER_MIN: c_int = 700;

/// The file, and what it was when it was opened.
struct Output {
    path: [u8; PATH_BYTES],
    descriptor: Descriptor,
    identity: Identity,
}

const PATH_BYTES: usize = 4096;

struct Open {
    output: Output,
    started: Instant,
    interval: u16,
    peak: u64,
    defined: Defined,
    records: Records,
}

struct Recorder {
    /// The last timeline's number.
    number: u32,
    open: Option<Open>,
    failure: Option<Failure>,
    sums: Sums,
    spare: Sums,
}

static RECORDER: Lock<Recorder> =
    Lock::new(Recorder { number: 0, open: None, failure: None, sums: Sums::new(), spare: Sums::new() });

impl Output {
    fn open(path: &CStr) -> Result<Self, c_int> {
        let text = path.to_bytes();
        let mut kept = [0; PATH_BYTES];
        kept.get_mut(..text.len()).filter(|_| text.len() < PATH_BYTES).ok_or(libc::ENAMETOOLONG)?.copy_from_slice(text);
        let opened = os::open_to_write(path, true)?;
        let descriptor = opened.copy_from(NUMBER_MIN).map_or(opened, |copy| {
            opened.close();
            copy
        });
        match descriptor.identity_and_birth() {
            Some(identity) if descriptor.is_file() => Ok(Self { path: kept, descriptor, identity }),
            _ => {
                descriptor.close();
                Err(libc::EINVAL)
            }
        }
    }

    /// Writes, unless another file is behind the descriptor by now; the program's own is opened again by its name.
    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        if self.descriptor.identity_and_birth() != Some(self.identity) {
            let path = CStr::from_bytes_until_nul(&self.path).unwrap_or_default();
            let again = os::open_to_write(path, false).map_err(|_| Failure::Replaced)?;
            let descriptor = again.copy_from(NUMBER_MIN).map_or(again, |copy| {
                again.close();
                copy
            });
            if descriptor.identity_and_birth() != Some(self.identity) {
                descriptor.close();
                return Err(Failure::Replaced);
            }
            self.descriptor = descriptor;
        }
        self.descriptor.write_all(bytes).map_err(Failure::Write)
    }

    fn close(self) {
        // A number that is another file's by now is that one's.
        if self.descriptor.identity_and_birth() == Some(self.identity) {
            self.descriptor.close();
        }
    }
}

/// Begins a timeline in a file, under the session's lock; its number, or `None` if there is one already.
///
/// # Errors
/// The system's number of the error.
pub(in crate::trace) fn begin(path: &CStr, config: Config, every: Duration) -> Result<Option<u32>, c_int> {
    RECORDER.lock().with(|recorder| {
        if recorder.open.is_some() {
            return Ok(None);
        }
        let defined = Defined::new().ok_or(libc::ENOMEM)?;
        let mut records = Records::new();
        records.bytes.extend(encode::MAGIC).and_then(|()| head(&mut records, config, every)).ok_or(libc::ENOMEM)?;
        let mut output = Output::open(path)?;
        if let Err(failure) = output.write(&records.bytes) {
            output.close();
            return Err(if let Failure::Write(error) = failure { error } else { libc::EIO });
        }
        records.bytes.truncate(0);
        recorder.failure = None;
        recorder.sums.clear();
        // Relaxed: a call for an earlier timeline; this one's thread is not there yet.
        CALL.store(0, Ordering::Relaxed);
        recorder.open = Some(Open { output, started: Instant::now(), interval: 1, peak: 0, defined, records });
        // What is live already is the first sample's.
        let Recorder { sums, spare, .. } = recorder;
        blocks::begin_interval(1, sums, spare);
        peaks::take_of_interval();
        recorder.take(Kind::Regular);
        recorder.flush();
        recorder.number = recorder.number.wrapping_add(1);
        Ok(Some(recorder.number))
    })
}

/// Writes what begins a file: the process, and how it is traced.
pub(in crate::trace) fn head(records: &mut Records, config: Config, every: Duration) -> Option<()> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let program = std::env::current_exe().unwrap_or_default();
    let folder = std::env::current_dir().unwrap_or_default();
    let mut record = records.begin(encode::HEAD);
    record.number(u64::from(os::process_id()));
    record.number(since.as_nanos() as u64);
    record.number(every.as_millis() as u64);
    record.number(config.interval_bytes());
    record.number(config.frames as u64);
    record.text(program.as_os_str().as_encoded_bytes());
    record.text(folder.as_os_str().as_encoded_bytes());
    record.end()
}

impl Open {
    /// Writes a sample into memory; `None` if there is none.
    fn write(&mut self, kind: Kind, interval: u16, (live, most): (u64, u64), sums: &Sums) -> Option<()> {
        let mut count = 0;
        for (key, _) in sums.iter() {
            self.defined.define(key.stack(), &mut self.records)?;
            count += 1;
        }
        let nanoseconds = u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let arenas = GLOBAL.with_state(|state, _| state.arenas.counts().mapped);
        let lost = blocks::lost() + u64::from(stacks::lost());
        let mut record = self.records.begin(encode::SAMPLE);
        record.number(kind as u64);
        for number in [nanoseconds, live, most, os::resident_set_bytes() as u64, (arenas * ARENA_BYTES) as u64] {
            record.number(number);
        }
        record.number(lost);
        record.number(count);
        for (key, change) in sums.iter() {
            record.number(u64::from(key.stack().number()));
            record.number(u64::from(interval.saturating_sub(key.birth())));
            record.signed(change.bytes);
            record.signed(change.blocks);
        }
        record.end()
    }
}

impl Recorder {
    /// Takes a sample, into memory.
    fn take(&mut self, kind: Kind) {
        let Self { open: Some(open), sums, spare, failure, .. } = self else { return };
        let interval = open.interval;
        // The last number stays: what is born from then on is told apart no more.
        open.interval = if kind == Kind::Last { 0 } else { interval.saturating_add(1) };
        let bytes = peaks::take_of_interval();
        blocks::begin_interval(open.interval, sums, spare);
        // Without a sample, all later ones would be off.
        if open.write(kind, interval, bytes, sums).is_none() {
            failure.get_or_insert(Failure::Memory);
        }
        sums.clear();
        open.peak = open.peak.max(bytes.0);
        peaks::sample_from((open.peak + open.peak / 16).max(PEAK_MIN_BYTES));
    }

    /// Writes what waits in memory to the file, and ends the timeline if that fails.
    fn flush(&mut self) {
        let Some(open) = &mut self.open else { return };
        if self.failure.is_none() && !open.records.bytes.is_empty() {
            self.failure = open.output.write(&open.records.bytes).err();
            open.records.bytes.truncate(0);
        }
        if self.failure.is_some() {
            self.close();
        }
    }

    /// Lets go of everything; the reason of a failure stays.
    fn close(&mut self) {
        blocks::forget_intervals();
        if let Some(open) = self.open.take() {
            open.output.close();
        }
        (self.sums, self.spare) = (Sums::new(), Sums::new());
    }
}

/// The sampler's thread sleeps on it while it is 0; 1 if it is called for a peak, or to end.
pub(in crate::trace) static CALL: AtomicU32 = AtomicU32::new(0);

/// Wakes the sampler's thread.
pub(in crate::trace) fn call_sampler() {
    // Release: pairs with the Acquire of the sampler, which looks then whether it is to end.
    CALL.store(1, Ordering::Release);
    os::futex_wake(&CALL);
}

/// Takes a sample and writes it, on the sampler's thread; `false` if there is no timeline any more.
pub(in crate::trace) fn sample(kind: Kind, _busy: &Busy) -> bool {
    RECORDER.lock().with(|recorder| {
        recorder.take(kind);
        recorder.flush();
        recorder.open.is_some()
    })
}

/// Takes a sample of a new peak inside a call of the allocator; does nothing while another thread takes one. Where the
/// stack has no room for it, the sampler's thread is called, which comes a little later.
#[cold]
#[inline(never)]
pub(in crate::trace) fn sample_peak() {
    // Handlers of a fork allocate with all locks held.
    if fork::this_thread_forks() {
        return;
    }
    if !walk::has_room(SAMPLE_STACK_BYTES) {
        peaks::sample_from(u64::MAX);
        return call_sampler();
    }
    let _busy = Busy::enter_in_allocation();
    let Some(mut recorder) = RECORDER.try_lock() else { return };
    recorder.with(|recorder| {
        let waits = recorder.open.as_ref().is_none_or(|open| open.records.bytes.len() > WAITING_BYTES_MAX);
        if waits || recorder.failure.is_some() {
            peaks::sample_from(u64::MAX);
        } else if peaks::sample_is_due() {
            recorder.take(Kind::Peak);
        }
    });
}

/// Ends the timeline of a number, or whichever there is, with a last sample; says what has gone wrong since it began.
/// The caller is [`Busy`].
pub(in crate::trace) fn end(number: Option<u32>, _busy: &Busy) -> Option<Failure> {
    RECORDER.lock().with(|recorder| {
        if number.is_some_and(|number| number != recorder.number) {
            return None;
        }
        recorder.take(Kind::Last);
        if let Some(open) = &mut recorder.open {
            let mut record = open.records.begin(encode::END);
            record.number(u64::try_from(open.started.elapsed().as_nanos()).unwrap_or(u64::MAX));
            if record.end().is_none() {
                recorder.failure.get_or_insert(Failure::Memory);
            }
        }
        recorder.flush();
        recorder.close();
        recorder.failure
    })
}

/// Takes the lock, for a fork.
pub(in crate::trace) fn acquire() {
    let _acquired = RECORDER.acquire();
}

/// Frees the lock.
///
/// # Safety
/// After [`acquire`], on the same thread or in its forked child.
pub(in crate::trace) unsafe fn release() {
    // SAFETY: the caller took it.
    unsafe { RECORDER.release() };
}

/// Closes the recorder in a forked child, once all locks are free.
pub(in crate::trace) fn forget_in_child() {
    RECORDER.lock().with(|recorder| {
        recorder.close();
        recorder.failure = None;
    });
}
