//! [`Recording`]: what a timeline recorded, with names.

use core::fmt;
use core::ops::Range;
use core::time::Duration;
use std::collections::HashMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::decode::{Head, Item, Sample, Split, split};
use crate::trace::names::modules::Module;
use crate::trace::names::recorded::Recorded;
use crate::trace::names::traceback::Traceback;
use crate::trace::read::snapshot::{Builder, CodePlace, Snapshot, Stack, without_allocator, without_inlined_allocator};
use crate::trace::record::encode::{MAGIC, MAGIC_OF_ANY};
use crate::trace::record::loaded;
use crate::trace::record::state::Busy;

/// The most bytes of a file: a larger one is no timeline.
const FILE_BYTES_MAX: u64 = 4 << 30;
/// The highest number of an interval: later ones share it.
const INTERVAL_MAX: u64 = u16::MAX as u64;

/// One sample of a [`Recording`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Moment {
    /// Since the timeline's start.
    pub time: Duration,
    /// Bytes of all traced blocks; an estimate, if blocks are sampled.
    pub bytes_live: usize,
    /// The most of these bytes at any time since the sample before.
    pub bytes_peak: usize,
    /// Bytes of the process that were in memory (its resident set, RSS), as the OS says; also in samples at peaks.
    pub bytes_resident: usize,
    /// Bytes of the arenas that were mapped; small blocks are in arenas.
    pub bytes_arenas: usize,
    /// Whether it was taken because of a new peak.
    pub at_peak: bool,
}

/// The change of some blocks since the sample before: negative if more were freed than allocated.
#[derive(Debug, Clone, Copy)]
pub(super) struct Change {
    /// Index into the stacks.
    pub(super) stack: usize,
    /// The sample at the end of the interval in which the blocks were allocated; `None` if they were there before the
    /// timeline.
    pub(super) birth: Option<usize>,
    pub(super) bytes: i64,
    pub(super) blocks: i64,
}

/// Memory over time, read from a file that a [`Timeline`](crate::trace::Timeline) wrote.
///
/// Names come from the program's files, as long as these have not changed since it ran. Its `Display` is for a
/// terminal: a chart, and the functions that held most at the peak and at the end.
#[derive(Debug, Clone)]
pub struct Recording {
    pub(super) head: Head,
    pub(super) moments: Vec<Moment>,
    /// Of each moment.
    pub(super) changes: Vec<Vec<Change>>,
    pub(super) places: Vec<CodePlace>,
    pub(super) stacks: Vec<Stack>,
    modules: Vec<Module>,
    lost: u64,
    is_cut: bool,
}

/// Why a file could not be loaded as a timeline.
#[derive(Debug)]
#[non_exhaustive]
pub enum RecordingError {
    /// The file could not be read.
    Io(io::Error),
    /// It is something else.
    NotATimeline,
    /// It is one of another version of this crate.
    OtherVersion,
    /// It ends before the first sample.
    Truncated,
    /// It was a timeline once, and is damaged.
    Damaged,
}

impl fmt::Display for RecordingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "the timeline could not be read: {error}"),
            Self::NotATimeline => write!(f, "the file is not a timeline of this tracer"),
            Self::OtherVersion => write!(f, "the timeline is of another version"),
            Self::Truncated => write!(f, "the timeline ends before its first sample"),
            Self::Damaged => write!(f, "the timeline is damaged"),
        }
    }
}

impl core::error::Error for RecordingError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}

/// The content of the whole records of a file.
#[derive(Default)]
struct Records {
    head: Option<Head>,
    recorded: Recorded,
    stacks: HashMap<u32, Vec<usize>>,
    samples: Vec<Sample>,
    has_end: bool,
}

impl Records {
    fn read(mut bytes: &[u8]) -> Result<Self, RecordingError> {
        let mut records = Self::default();
        while !bytes.is_empty() {
            match split(bytes) {
                Split::Whole { kind, content, rest } => {
                    records.add(Item::of(kind, content).ok_or(RecordingError::Damaged)?)?;
                    bytes = rest;
                }
                Split::Cut => break,
                Split::Damaged => return Err(RecordingError::Damaged),
            }
        }
        Ok(records)
    }

    fn add(&mut self, item: Item) -> Result<(), RecordingError> {
        match item {
            Item::Head(head) if self.head.is_none() => {
                self.recorded.folder = PathBuf::from(&head.folder);
                self.head = Some(head);
            }
            Item::Module(number, module) => {
                self.recorded.modules.insert(number, module);
            }
            Item::Stack(number, words) => {
                self.stacks.insert(number, words);
            }
            Item::Sample(sample) => {
                let known = sample.changes.iter().all(|change| self.stacks.contains_key(&change.stack));
                let in_order = self.samples.last().is_none_or(|last| last.time <= sample.time);
                if !known || !in_order {
                    return Err(RecordingError::Damaged);
                }
                self.samples.push(sample);
            }
            Item::End => self.has_end = true,
            Item::Head(_) | Item::Live(_) | Item::Text(_) | Item::Pools(_) => return Err(RecordingError::Damaged),
        }
        Ok(())
    }
}

impl Recording {
    /// Reads a timeline from its file.
    ///
    /// The program may still run, or may have been killed: then the recording ends where the file does.
    ///
    /// # Errors
    /// See [`RecordingError`].
    pub fn load(path: impl AsRef<Path>) -> Result<Self, RecordingError> {
        Self::load_with(path, |_, _| {})
    }

    /// Reads a timeline as [`load`](Self::load) does, and reports progress.
    ///
    /// It calls `progress` with the number of frames whose names are found and the number of all frames.
    ///
    /// # Errors
    /// As for [`load`](Self::load).
    pub fn load_with(path: impl AsRef<Path>, progress: impl FnMut(usize, usize)) -> Result<Self, RecordingError> {
        let _busy = Busy::enter();
        let mut bytes = Vec::new();
        let file = std::fs::File::open(path).map_err(RecordingError::Io)?;
        file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(RecordingError::Io)?;
        Self::from_bytes(&bytes, progress)
    }

    fn from_bytes(bytes: &[u8], progress: impl FnMut(usize, usize)) -> Result<Self, RecordingError> {
        let Some(rest) = bytes.strip_prefix(MAGIC) else {
            return Err(match bytes.strip_prefix(MAGIC_OF_ANY) {
                _ if MAGIC.starts_with(bytes) => RecordingError::Truncated,
                Some(_) => RecordingError::OtherVersion,
                None => RecordingError::NotATimeline,
            });
        };
        let mut records = Records::read(rest)?;
        let head = records.head.take().ok_or(RecordingError::Truncated)?;
        if records.samples.is_empty() {
            return Err(RecordingError::Truncated);
        }
        Ok(Self::build(head, records, progress))
    }

    fn build(head: Head, records: Records, mut progress: impl FnMut(usize, usize)) -> Self {
        let Records { mut recorded, stacks, samples, has_end, .. } = records;
        let mut words: Vec<usize> = stacks.values().flatten().copied().collect();
        // Neighbours are in the same parts of the debug information.
        words.sort_unstable();
        words.dedup();
        let mut numbers: Vec<u16> = recorded.modules.keys().copied().collect();
        numbers.sort_unstable();
        let modules = numbers.iter().filter_map(|number| Some(recorded.modules.get(number)?.module())).collect();
        let mut places = HashMap::new();
        for (done, &word) in words.iter().enumerate() {
            progress(done, words.len());
            let frames = without_inlined_allocator(recorded.look_up(word));
            let module = numbers.binary_search(&loaded::number_of(word).get()).ok();
            places.insert(word, CodePlace { address: loaded::address_of(word) as u64, module, frames });
        }
        progress(words.len(), words.len());
        recorded.release_debug_information();

        let mut build = Builder::default();
        let mut ids: Vec<u32> = stacks.keys().copied().collect();
        ids.sort_unstable_by_key(|id| &stacks[id]);
        let numbers: HashMap<u32, usize> = ids
            .into_iter()
            .map(|id| {
                let frames = stacks[&id].iter().filter_map(|word| places.get(word).cloned()).collect();
                (id, build.stack(without_allocator(frames, head.frames)))
            })
            .collect();
        let Snapshot { places, stacks, .. } = build.finish();
        let lost = samples.last().map_or(0, |sample| sample.lost);
        let changes = samples.iter().enumerate().map(|(index, sample)| changes_of(index, sample, &numbers)).collect();
        let moments = samples.iter().map(moment_of).collect();
        Self { head, moments, changes, places, stacks, modules, lost, is_cut: !has_end }
    }

    /// The samples, in order; at least one.
    pub fn moments(&self) -> &[Moment] {
        &self.moments
    }

    /// The index of the sample with the most live bytes.
    pub fn peak_index(&self) -> usize {
        let most = self.moments.iter().enumerate().rev().max_by_key(|(_, moment)| moment.bytes_live);
        most.map_or(0, |(index, _)| index)
    }

    /// The sample with the most live bytes.
    pub fn peak(&self) -> Option<&Moment> {
        self.moments.get(self.peak_index())
    }

    /// The index of the last sample at or before a time; of the first, if there is none.
    pub fn index_at(&self, time: Duration) -> usize {
        self.moments.partition_point(|moment| moment.time <= time).saturating_sub(1)
    }

    /// What was live at a sample.
    ///
    /// The sums of each call stack are exact; each block has the average size of its stack.
    pub fn live_at(&self, index: usize) -> Snapshot {
        self.sum(index, |_| true)
    }

    /// What was allocated after the sample `range.start` and not freed by the sample `range.end`.
    ///
    /// memray shows the same as its temporal view. Sums and sizes are as in [`live_at`](Self::live_at).
    pub fn allocated_in(&self, range: Range<usize>) -> Snapshot {
        self.sum(range.end, |birth| birth.is_some_and(|birth| birth > range.start))
    }

    /// Sums up the blocks whose births `is_meant` accepts, as they were at a sample.
    fn sum(&self, index: usize, is_meant: impl Fn(Option<usize>) -> bool) -> Snapshot {
        let _busy = Busy::enter();
        let mut sums: HashMap<usize, (i64, i64)> = HashMap::new();
        let until = self.changes.len().min(index.saturating_add(1));
        for change in self.changes[..until].iter().flatten().filter(|change| is_meant(change.birth)) {
            let sum = sums.entry(change.stack).or_default();
            *sum = (sum.0.wrapping_add(change.bytes), sum.1.wrapping_add(change.blocks));
        }
        let mut build = Builder::default();
        for (stack, (bytes, blocks)) in sums {
            let (Ok(bytes), Ok(blocks)) = (u64::try_from(bytes), u64::try_from(blocks)) else { continue };
            build.add_sum(stack, bytes, blocks);
        }
        Snapshot {
            places: self.places.clone(),
            stacks: self.stacks.clone(),
            modules: self.modules.clone(),
            frames: self.head.frames,
            lost: self.lost,
            taken_at: self.started_at() + self.moments.get(index).map_or(Duration::ZERO, |moment| moment.time),
            ..build.finish()
        }
    }

    /// When the timeline began.
    pub fn started_at(&self) -> SystemTime {
        UNIX_EPOCH.checked_add(Duration::from_nanos(self.head.started)).unwrap_or(UNIX_EPOCH)
    }

    /// The number of the process.
    pub fn process(&self) -> u32 {
        self.head.process
    }

    /// The program's file.
    pub fn program(&self) -> &str {
        &self.head.program
    }

    /// Mean bytes between sampled blocks; `None` if every block was traced.
    pub fn sampled_every(&self) -> Option<usize> {
        (self.head.sampled_every != 0).then_some(self.head.sampled_every as usize)
    }

    /// Whether it has no end: the program was killed, called `_exit` or `exec`, or still runs.
    pub fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// Blocks that could not be recorded, as [`Snapshot::lost_blocks`].
    pub fn lost_blocks(&self) -> usize {
        self.lost as usize
    }

    pub(super) fn traceback(&self, stack: usize) -> &Traceback {
        &self.stacks[stack].traceback
    }
}

fn changes_of(index: usize, sample: &Sample, numbers: &HashMap<u32, usize>) -> Vec<Change> {
    let interval = (index as u64 + 1).min(INTERVAL_MAX);
    let change = |change: &super::decode::Change| Change {
        stack: numbers[&change.stack],
        birth: interval.saturating_sub(change.age).checked_sub(1).map(|birth| birth as usize),
        bytes: change.bytes,
        blocks: change.blocks,
    };
    sample.changes.iter().map(change).collect()
}

fn moment_of(sample: &Sample) -> Moment {
    Moment {
        time: Duration::from_nanos(sample.time),
        bytes_live: sample.live as usize,
        bytes_peak: sample.most as usize,
        bytes_resident: sample.resident as usize,
        bytes_arenas: sample.arenas as usize,
        at_peak: sample.kind == 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::record::encode::{self, Records as Encoder};

    fn sample(out: &mut Encoder, time: u64, changes: &[(u64, u64, i64, i64)]) {
        let mut record = out.begin(encode::SAMPLE);
        for number in [0, time, 1000, 2000, 3000, 4000, 0, changes.len() as u64] {
            record.number(number);
        }
        for &(stack, age, bytes, blocks) in changes {
            record.number(stack);
            record.number(age);
            record.signed(bytes);
            record.signed(blocks);
        }
        record.end().expect("memory");
    }

    /// A file of three stacks and four samples, and where its records end.
    fn file() -> (Vec<u8>, Vec<usize>) {
        let mut out = Encoder::new();
        out.bytes.extend(MAGIC).expect("memory");
        let mut ends = Vec::new();
        let mut record = out.begin(encode::HEAD);
        [7, 1_000_000_000, 100, 0, 32].into_iter().for_each(|number| record.number(number));
        record.text(b"/bin/program");
        record.text(b"/");
        record.end().expect("memory");
        ends.push(out.bytes.len());
        for stack in 0..3 {
            let mut record = out.begin(encode::STACK);
            [stack, 2, 0x1000 + stack, 0x2000].into_iter().for_each(|number| record.number(number));
            record.end().expect("memory");
            ends.push(out.bytes.len());
        }
        let samples: [&[_]; 4] =
            [&[(0, 1, 100, 1)], &[(1, 0, 301, 2), (2, 0, 8, 1)], &[(1, 1, -150, -1), (2, 0, 9, 1)], &[(2, 2, -8, -1)]];
        for (index, changes) in samples.into_iter().enumerate() {
            sample(&mut out, index as u64 * 1000, changes);
            ends.push(out.bytes.len());
        }
        let mut record = out.begin(encode::END);
        record.number(4000);
        record.end().expect("memory");
        (out.bytes.to_vec(), ends)
    }

    fn load(bytes: &[u8]) -> Result<Recording, RecordingError> {
        Recording::from_bytes(bytes, |_, _| {})
    }

    #[test]
    fn what_was_live_and_what_is_of_a_range_are_sums_of_changes() {
        let recording = load(&file().0).expect("a timeline");
        let bytes = |index| recording.live_at(index).bytes();
        assert_eq!([0, 1, 2, 3].map(bytes), [100, 409, 268, 260]);
        let of = |range: Range<usize>| {
            (recording.allocated_in(range.clone()).bytes(), recording.allocated_in(range).blocks())
        };
        assert_eq!([of(0..1), of(0..2), of(0..3), of(1..3), of(3..3)], [(309, 3), (168, 3), (160, 2), (9, 1), (0, 0)]);
        assert_eq!((recording.index_at(Duration::ZERO), recording.index_at(Duration::from_nanos(2500))), (0, 2));
        assert!(!recording.is_cut());
    }

    #[test]
    fn each_prefix_is_what_its_whole_records_say() {
        let (bytes, ends) = file();
        for len in 0..bytes.len() {
            let samples = ends.iter().filter(|&&end| end <= len).count().saturating_sub(4);
            match load(&bytes[..len]) {
                Ok(recording) => {
                    assert!(recording.is_cut() && recording.moments().len() == samples, "{len}");
                    assert!(recording.to_string().contains("no end"));
                }
                Err(error) => assert!(samples == 0 && matches!(error, RecordingError::Truncated), "{len}: {error}"),
            }
        }
    }

    #[test]
    fn hostile_bytes_are_refused_or_make_a_timeline_that_can_be_shown() {
        let (bytes, _) = file();
        let mut random = 1_u64;
        let mut next = |below: usize| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) as usize % below
        };
        let mut shown = 0;
        for _ in 0..3000 {
            let mut hostile = bytes[MAGIC.len()..].to_vec();
            for _ in 0..1 + next(3) {
                let place = next(hostile.len());
                hostile[place] = next(256) as u8;
            }
            // With correct checksums, so that the code behind their check is reached.
            let (mut sealed, mut rest) = (MAGIC.to_vec(), &hostile[..]);
            while let Some((head, after)) = rest.split_first_chunk::<{ encode::HEAD_BYTES }>() {
                let len = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
                let Some((content, after)) = after.split_at_checked(len) else { break };
                sealed.extend(head);
                sealed.extend(content);
                sealed.extend(encode::checksum(content).to_le_bytes());
                rest = after.get(encode::CHECKSUM_BYTES..).unwrap_or_default();
            }
            if let Ok(recording) = load(&sealed) {
                let _ = (recording.to_string(), recording.to_page(), recording.allocated_in(0..9).bytes());
                shown += 1;
            }
        }
        assert!((100..2900).contains(&shown), "{shown}");
    }
}
