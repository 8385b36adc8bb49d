//! Records a timeline: samples of what is live, each as the changes since the one before.
//!
//! # How
//! Time is cut into intervals. The tables (`blocks`) sum up the changes within an interval, by stack and by the
//! interval in which the blocks were allocated. A sample takes these sums, begins the next interval, and writes the
//! sums.
//!
//! The sampler's thread takes samples at regular times. An allocating thread takes one when the live bytes have grown
//! to a sixteenth above the highest sample. It only keeps the record in memory; the sampler's thread writes it to the
//! file.
//!
//! # Memory
//! All memory comes straight from the OS, none from the heap that is watched. No name is looked up.
//!
//! # Locks
//! `RECORDER` comes after `SYMBOLS` and before the heap's locks. The lock of the heap's state is taken under it, to
//! count arenas. `RECORDER` is held while the file is written. No call inside the allocator waits for it.
//!
//! # Fork
//! The child has no thread that samples. So its recorder is closed, and its tables note no changes any more.

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

/// Why a timeline ended early.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::trace) enum Failure {
    /// Writing failed, with the system's error number.
    Write(c_int),
    /// The program has closed the descriptor, and another file has the name.
    Replaced,
    Memory,
}

/// Samples at peaks begin at this many bytes, and come with each further sixteenth.
const PEAK_MIN_BYTES: u64 = 1 << 16;
/// Bytes of stack that a sample takes at most, in any build.
const SAMPLE_STACK_BYTES: usize = 32 << 10;
/// The most bytes of records that wait in memory for the sampler's thread; if there are more, peaks are not sampled.
const WAITING_BYTES_MAX: usize = 64 << 20;
/// The lowest number of the file's descriptor: programs close and look at lower ones (see `preload/src/kept.rs`).
const NUMBER_MIN: c_int = 700;

/// The file, and its identity when it was opened.
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

    /// Writes. If the descriptor stands for another file by now, it first opens the timeline's file again by its name,
    /// and fails if another file has that name.
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
        // If the number stands for another file by now, it is not ours to close.
        if self.descriptor.identity_and_birth() == Some(self.identity) {
            self.descriptor.close();
        }
    }
}

/// Begins a timeline in a file, under the session's lock. Returns its number, or `None` if there is a timeline already.
///
/// # Errors
/// The system's error number.
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
        // Relaxed: clears a call for an earlier timeline; this one's thread does not exist yet.
        CALL.store(0, Ordering::Relaxed);
        recorder.open = Some(Open { output, started: Instant::now(), interval: 1, peak: 0, defined, records });
        // The blocks that are live already go into the first sample.
        let Recorder { sums, spare, .. } = recorder;
        blocks::begin_interval(1, sums, spare);
        peaks::take_of_interval();
        recorder.take(Kind::Regular);
        recorder.flush();
        recorder.number = recorder.number.wrapping_add(1);
        Ok(Some(recorder.number))
    })
}

/// Writes a file's first record: the process, and how it is traced.
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
    /// Writes a sample into memory; `None` if there is no memory for it.
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
        // The highest number stays: from then on, the intervals of blocks are no longer told apart.
        open.interval = if kind == Kind::Last { 0 } else { interval.saturating_add(1) };
        let bytes = peaks::take_of_interval();
        blocks::begin_interval(open.interval, sums, spare);
        // If a sample were missing, all later ones would be wrong.
        if open.write(kind, interval, bytes, sums).is_none() {
            failure.get_or_insert(Failure::Memory);
        }
        sums.clear();
        open.peak = open.peak.max(bytes.0);
        peaks::sample_from((open.peak + open.peak / 16).max(PEAK_MIN_BYTES));
    }

    /// Writes the records that wait in memory to the file, and ends the timeline if that fails.
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

    /// Closes the file and frees all memory; the reason of a failure stays.
    fn close(&mut self) {
        blocks::forget_intervals();
        if let Some(open) = self.open.take() {
            open.output.close();
        }
        (self.sums, self.spare) = (Sums::new(), Sums::new());
    }
}

/// The sampler's thread sleeps on it while it is 0. It is 1 if the thread is called for a peak, or to end.
pub(in crate::trace) static CALL: AtomicU32 = AtomicU32::new(0);

/// Wakes the sampler's thread.
pub(in crate::trace) fn call_sampler() {
    // Release: pairs with the Acquire of the sampler's thread, which then looks whether it must end.
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

/// Takes a sample of a new peak inside a call of the allocator; does nothing while another thread takes one. If the
/// stack has no room for it, it wakes the sampler's thread, which takes the sample a little later.
#[cold]
#[inline(never)]
pub(in crate::trace) fn sample_peak() {
    // The handlers of a fork may allocate while all locks are held.
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

/// Ends the timeline with this number, or whichever there is, with a last sample. Returns a failure, if there was one
/// since it began. The caller is [`Busy`].
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
