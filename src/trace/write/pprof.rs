//! Snapshots as pprof profiles, which is also how they are saved and loaded.
//!
//! The format is the gzip of one protocol buffer, `Profile` in
//! <https://github.com/google/pprof/blob/main/proto/profile.proto>. The messages below are that file's, without the
//! fields that are not used here. A sample stands for the blocks of one stack and size, as in Go's heap profiles: its
//! values are `inuse_objects` and `inuse_space`, and the size is the label `bytes`. Addresses come with their file and
//! its build id, so that a stripped program's addresses can be named elsewhere.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use prost::Message;

use crate::trace::names::modules::Module;
use crate::trace::names::traceback::Frame;
use crate::trace::read::snapshot::{Builder, CodePlace, Snapshot};
use crate::trace::record::sampling::weight;
use crate::trace::record::state::Busy;

/// The first comment of a profile that is a snapshot.
const MARK: &str = "pymalloc trace, version 1";
/// The most bytes of an unpacked snapshot: a larger one is no snapshot.
const UNPACKED_MAX: u64 = 4 << 30;

#[derive(Clone, PartialEq, Message)]
struct Profile {
    #[prost(message, repeated, tag = "1")]
    sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    sample: Vec<Sample>,
    #[prost(message, repeated, tag = "3")]
    mapping: Vec<Mapping>,
    #[prost(message, repeated, tag = "4")]
    location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    function: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    string_table: Vec<String>,
    #[prost(int64, tag = "9")]
    time_nanos: i64,
    #[prost(message, optional, tag = "11")]
    period_type: Option<ValueType>,
    #[prost(int64, tag = "12")]
    period: i64,
    #[prost(int64, repeated, tag = "13")]
    comment: Vec<i64>,
    #[prost(int64, tag = "14")]
    default_sample_type: i64,
}

#[derive(Clone, PartialEq, Message)]
struct ValueType {
    #[prost(int64, tag = "1")]
    kind: i64,
    #[prost(int64, tag = "2")]
    unit: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Sample {
    #[prost(uint64, repeated, tag = "1")]
    location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
    #[prost(message, repeated, tag = "3")]
    label: Vec<Label>,
}

#[derive(Clone, PartialEq, Message)]
struct Label {
    #[prost(int64, tag = "1")]
    key: i64,
    #[prost(int64, tag = "3")]
    num: i64,
    #[prost(int64, tag = "4")]
    num_unit: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Mapping {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "2")]
    memory_start: u64,
    #[prost(uint64, tag = "3")]
    memory_limit: u64,
    #[prost(uint64, tag = "4")]
    file_offset: u64,
    #[prost(int64, tag = "5")]
    filename: i64,
    #[prost(int64, tag = "6")]
    build_id: i64,
    #[prost(bool, tag = "7")]
    has_functions: bool,
    #[prost(bool, tag = "8")]
    has_filenames: bool,
    #[prost(bool, tag = "9")]
    has_line_numbers: bool,
    #[prost(bool, tag = "10")]
    has_inline_frames: bool,
}

#[derive(Clone, PartialEq, Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "2")]
    mapping_id: u64,
    #[prost(uint64, tag = "3")]
    address: u64,
    #[prost(message, repeated, tag = "4")]
    line: Vec<Line>,
}

#[derive(Clone, PartialEq, Message)]
struct Line {
    #[prost(uint64, tag = "1")]
    function_id: u64,
    #[prost(int64, tag = "2")]
    line: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Function {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    name: i64,
    #[prost(int64, tag = "4")]
    filename: i64,
}

/// Why a file could not be loaded as a snapshot.
#[derive(Debug)]
#[non_exhaustive]
pub enum LoadError {
    /// The file could not be read.
    Io(io::Error),
    /// It ends too early.
    Truncated,
    /// It was a profile once, and is damaged.
    Damaged,
    /// It is something else: not a profile, or not one of this crate's.
    NotASnapshot,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "the snapshot could not be read: {error}"),
            Self::Truncated => write!(f, "the snapshot is truncated"),
            Self::Damaged => write!(f, "the snapshot is damaged"),
            Self::NotASnapshot => write!(f, "the file is not a snapshot of this tracer"),
        }
    }
}

impl std::error::Error for LoadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl Snapshot {
    /// Writes the snapshot to a file: a pprof profile, for `go tool pprof`, Speedscope, Polar Signals and others, and
    /// for [`load`](Self::load).
    ///
    /// # Errors
    /// If the file can't be written.
    pub fn save(&self, path: impl AsRef<Path>) -> io::Result<()> {
        let _busy = Busy::enter();
        std::fs::write(path, self.to_pprof())
    }

    /// The snapshot as a pprof profile: the gzip of a protocol buffer.
    pub fn to_pprof(&self) -> Vec<u8> {
        let _busy = Busy::enter();
        let profile = Writer::default().profile(self).encode_to_vec();
        let mut packed = GzEncoder::new(Vec::new(), Compression::default());
        // Writing to a vector does not fail.
        packed.write_all(&profile).and_then(|()| packed.finish()).unwrap_or_default()
    }

    /// Reads a snapshot that [`save`](Self::save) wrote, in this process or another.
    ///
    /// # Errors
    /// The error says whether the file can't be read, ends too early, is damaged, or is something else.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, LoadError> {
        let _busy = Busy::enter();
        Self::from_pprof(&std::fs::read(path).map_err(LoadError::Io)?)
    }

    /// Reads a snapshot from the bytes that [`to_pprof`](Self::to_pprof) made.
    ///
    /// # Errors
    /// As for [`load`](Self::load).
    pub fn from_pprof(bytes: &[u8]) -> Result<Self, LoadError> {
        let _busy = Busy::enter();
        // The first bytes of any gzip.
        if !bytes.starts_with(&[0x1f, 0x8b]) {
            return Err(if [0x1f].starts_with(bytes) { LoadError::Truncated } else { LoadError::NotASnapshot });
        }
        let mut unpacked = Vec::new();
        let mut reader = GzDecoder::new(bytes).take(UNPACKED_MAX);
        match reader.read_to_end(&mut unpacked) {
            Ok(_) if reader.limit() > 0 => {}
            Ok(_) => return Err(LoadError::NotASnapshot),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(LoadError::Truncated),
            Err(_) => return Err(LoadError::Damaged),
        }
        let profile = Profile::decode(unpacked.as_slice()).map_err(|_| LoadError::NotASnapshot)?;
        Reader { profile: &profile }.snapshot()
    }
}

/// Numbers strings, from the empty one on.
struct Writer<'text> {
    numbers: HashMap<&'text str, i64>,
    strings: Vec<String>,
}

impl Default for Writer<'_> {
    fn default() -> Self {
        Self { numbers: HashMap::from([("", 0)]), strings: vec![String::new()] }
    }
}

impl<'text> Writer<'text> {
    fn number(&mut self, text: &'text str) -> i64 {
        *self.numbers.entry(text).or_insert_with(|| {
            self.strings.push(text.to_owned());
            self.strings.len() as i64 - 1
        })
    }

    fn value_type(&mut self, kind: &'text str, unit: &'text str) -> ValueType {
        ValueType { kind: self.number(kind), unit: self.number(unit) }
    }

    fn profile(mut self, snapshot: &'text Snapshot) -> Profile {
        let mut profile = Profile {
            sample_type: vec![self.value_type("inuse_objects", "count"), self.value_type("inuse_space", "bytes")],
            period_type: Some(self.value_type("space", "bytes")),
            period: snapshot.interval as i64,
            default_sample_type: self.number("inuse_space"),
            time_nanos: snapshot
                .taken_at
                .duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0, |since| i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)),
            sample: self.samples(snapshot),
            ..Profile::default()
        };
        let mut functions = HashMap::new();
        for (number, place) in snapshot.places.iter().enumerate() {
            let lines = place.frames.iter().map(|frame| {
                let next = functions.len() as u64 + 1;
                let id = *functions.entry((&frame.function, &frame.file)).or_insert_with(|| {
                    let (name, filename) = (self.number(&frame.function), self.number(&frame.file));
                    // Without a linker's name, `pprof` shows the name as it is; otherwise it would cut `<…>` off.
                    profile.function.push(Function { id: next, name, filename });
                    next
                });
                Line { function_id: id, line: i64::from(frame.line) }
            });
            let line = lines.collect();
            profile.location.push(Location {
                id: number as u64 + 1,
                mapping_id: place.module.map_or(0, |module| module as u64 + 1),
                address: place.address,
                line,
            });
        }
        for (number, module) in snapshot.modules.iter().enumerate() {
            let own = |place: &&CodePlace| place.module == Some(number);
            // If a mapping says that it has no functions, a reader looks up the names itself.
            let has_functions = snapshot.places.iter().filter(own).any(|place| !place.frames.is_empty());
            let has_lines =
                snapshot.places.iter().filter(own).any(|place| place.frames.iter().any(|frame| frame.line > 0));
            profile.mapping.push(Mapping {
                id: number as u64 + 1,
                memory_start: module.start,
                memory_limit: module.end,
                file_offset: module.file_offset,
                filename: self.number(&module.file),
                build_id: self.number(&module.build_id),
                has_functions,
                has_filenames: has_lines,
                has_line_numbers: has_lines,
                has_inline_frames: has_lines,
            });
        }
        let mut strings = self.strings;
        for comment in [MARK.to_owned(), format!("frames={}", snapshot.frames), format!("lost={}", snapshot.lost)] {
            profile.comment.push(strings.len() as i64);
            strings.push(comment);
        }
        profile.string_table = strings;
        profile
    }

    fn samples(&mut self, snapshot: &Snapshot) -> Vec<Sample> {
        let (key, num_unit) = (self.number("bytes"), self.number("bytes"));
        let samples = snapshot.traces.iter().map(|trace| {
            let count = trace.count as f64 * weight(trace.bytes, snapshot.interval).count;
            Sample {
                location_id: snapshot.stacks[trace.stack].places.iter().map(|&place| place as u64 + 1).collect(),
                value: vec![count.round() as i64, (count * trace.bytes as f64).round() as i64],
                label: vec![Label { key, num: trace.bytes as i64, num_unit }],
            }
        });
        samples.collect()
    }
}

struct Reader<'profile> {
    profile: &'profile Profile,
}

impl<'profile> Reader<'profile> {
    fn text(&self, number: i64) -> Result<&'profile str, LoadError> {
        let text = usize::try_from(number).ok().and_then(|number| self.profile.string_table.get(number));
        text.map(String::as_str).ok_or(LoadError::Damaged)
    }

    fn snapshot(&self) -> Result<Snapshot, LoadError> {
        let comments: Vec<&str> = self.profile.comment.iter().map_while(|&number| self.text(number).ok()).collect();
        let [mark, frames, lost] = comments[..] else { return Err(LoadError::NotASnapshot) };
        if mark != MARK {
            return Err(LoadError::NotASnapshot);
        }
        let number = |text: &str, name| {
            text.strip_prefix(name).and_then(|number| number.parse::<u64>().ok()).ok_or(LoadError::Damaged)
        };
        let places = self.places()?;
        let interval = u64::try_from(self.profile.period).map_err(|_| LoadError::Damaged)?;
        let mut build = Builder::default();
        for sample in &self.profile.sample {
            let numbers = sample.location_id.iter();
            let stack =
                numbers.map(|id| places.get(id).cloned().ok_or(LoadError::Damaged)).collect::<Result<_, _>>()?;
            let ([count, _], [label]) = (&sample.value[..], &sample.label[..]) else { return Err(LoadError::Damaged) };
            let bytes = u64::try_from(label.num).map_err(|_| LoadError::Damaged)?;
            // Back from the estimate to the number of sampled blocks. The saved estimate is rounded by at most a half,
            // and the weight is at least 1, so the result is exact.
            let count = (*count as f64 / weight(bytes, interval).count).round();
            let stack = build.stack(stack);
            build.add(stack, bytes, count as u64);
        }
        Ok(Snapshot {
            modules: self.profile.mapping.iter().map(|mapping| self.module(mapping)).collect::<Result<_, _>>()?,
            interval,
            frames: usize::try_from(number(frames, "frames=")?).map_err(|_| LoadError::Damaged)?,
            lost: number(lost, "lost=")?,
            taken_at: u64::try_from(self.profile.time_nanos)
                .ok()
                .and_then(|nanos| SystemTime::UNIX_EPOCH.checked_add(Duration::from_nanos(nanos)))
                .ok_or(LoadError::Damaged)?,
            ..build.finish()
        })
    }

    fn module(&self, mapping: &Mapping) -> Result<Module, LoadError> {
        Ok(Module {
            start: mapping.memory_start,
            end: mapping.memory_limit,
            file_offset: mapping.file_offset,
            file: self.text(mapping.filename)?.to_owned(),
            build_id: self.text(mapping.build_id)?.to_owned(),
        })
    }

    fn places(&self) -> Result<HashMap<u64, CodePlace>, LoadError> {
        let mut names: HashMap<i64, Arc<str>> = HashMap::new();
        let mut functions = HashMap::new();
        for function in &self.profile.function {
            for number in [function.name, function.filename] {
                names.insert(number, self.text(number)?.into());
            }
            functions.insert(function.id, function);
        }
        let place = |location: &Location| {
            let frames = location.line.iter().map(|line| {
                let function = functions.get(&line.function_id).ok_or(LoadError::Damaged)?;
                Ok(Frame {
                    file: Arc::clone(&names[&function.filename]),
                    line: u32::try_from(line.line).map_err(|_| LoadError::Damaged)?,
                    function: Arc::clone(&names[&function.name]),
                })
            });
            let frames: Vec<Frame> = frames.collect::<Result<_, LoadError>>()?;
            let module = usize::try_from(location.mapping_id).map_err(|_| LoadError::Damaged)?.checked_sub(1);
            Ok((location.id, CodePlace { address: location.address, module, frames: frames.into() }))
        };
        self.profile.location.iter().map(place).collect()
    }
}
