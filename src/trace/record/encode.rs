//! What is recorded over time, as bytes: the records of a timeline's file and of the answers of `trace::serve`.
//!
//! # Format
//! A file begins with [`MAGIC`]; the digit in it is the version. Then records follow, each
//!
//! | bytes | meaning |
//! |---|---|
//! | 1 | the kind |
//! | 4 | bytes of the content, little-endian |
//! | … | the content |
//! | 4 | the content's checksum, little-endian: FNV-1a of 32 bits |
//!
//! Numbers in the content are unsigned LEB128; changes are zigzag and LEB128, as in protocol buffers. A text is its
//! length and its bytes. A record names only stacks and modules that an earlier one defined. So each prefix of a file
//! can be read; its last record may be cut.
//!
//! | kind | content |
//! |---|---|
//! | [`HEAD`] | the process, its start (nanoseconds since 1970), milliseconds between samples, mean bytes between sampled blocks, frames, the program's file, its folder |
//! | [`MODULE`] | number, base, start and end of the code, its place in the file, whether it is the allocator's own, the build id, the file |
//! | [`STACK`] | number, count of frames, each frame (an address, its module's number in the upper 16 bits), innermost first |
//! | [`SAMPLE`] | its kind, nanoseconds since the start, live bytes, most live bytes since the last sample, resident bytes, bytes of arenas, lost blocks, count of changes; each change: stack, age of the blocks (in samples; see `Moment`), bytes, blocks |
//! | [`END`] | nanoseconds since the start |
//! | [`LIVE`] | as a sample, without ages: all that is live; in place of the kind and the time stand the mean bytes between sampled blocks and whether there is a session |
//! | [`TEXT`], [`POOLS`] | all of the content: the heap's statistics as text; two bytes for each pool |

use super::loaded::{self, Number};
use super::memory::Mapped;
use super::stacks::{self, StackId};
use super::{capture, capture::FRAMES_MAX};

pub(in crate::trace) const MAGIC: &[u8] = b"pymalloc timeline 1\n";
/// The beginning of [`MAGIC`] in any version.
pub(in crate::trace) const MAGIC_OF_ANY: &[u8] = b"pymalloc timeline ";

pub(in crate::trace) const HEAD: u8 = 1;
pub(in crate::trace) const MODULE: u8 = 2;
pub(in crate::trace) const STACK: u8 = 3;
pub(in crate::trace) const SAMPLE: u8 = 4;
pub(in crate::trace) const END: u8 = 5;
pub(in crate::trace) const LIVE: u8 = 6;
pub(in crate::trace) const TEXT: u8 = 7;
pub(in crate::trace) const POOLS: u8 = 8;

/// Bytes of a record before its content, and after.
pub(in crate::trace) const HEAD_BYTES: usize = 5;
pub(in crate::trace) const CHECKSUM_BYTES: usize = 4;

/// Bytes of the longest path of a module.
const PATH_MAX: usize = 1024;

/// FNV-1a (Fowler, Noll, Vo), 32 bits.
pub(in crate::trace) fn checksum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811C_9DC5, |hash, &byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// Records, in memory of the tracer's own.
pub(in crate::trace) struct Records {
    pub(in crate::trace) bytes: Mapped<u8>,
}

/// A record that is being written; it is whole once [`end`](Self::end) says so.
pub(in crate::trace) struct Record<'records> {
    out: &'records mut Mapped<u8>,
    start: usize,
    /// `None` once there was no memory.
    whole: Option<()>,
}

impl Records {
    pub(in crate::trace) const fn new() -> Self {
        Self { bytes: Mapped::new() }
    }

    pub(in crate::trace) fn begin(&mut self, kind: u8) -> Record<'_> {
        let start = self.bytes.len();
        let whole = self.bytes.extend(&[kind, 0, 0, 0, 0]);
        Record { out: &mut self.bytes, start, whole }
    }
}

impl Record<'_> {
    /// Adds bytes without their length: all of a record's content, or a part of it.
    pub(in crate::trace) fn raw(&mut self, bytes: &[u8]) {
        self.whole = self.whole.and_then(|()| self.out.extend(bytes));
    }

    pub(in crate::trace) fn number(&mut self, mut number: u64) {
        let (mut bytes, mut len) = ([0; 10], 0);
        loop {
            let low = (number & 0x7f) as u8;
            number >>= 7;
            bytes[len] = if number == 0 { low } else { low | 0x80 };
            len += 1;
            if number == 0 {
                return self.raw(&bytes[..len]);
            }
        }
    }

    pub(in crate::trace) fn signed(&mut self, number: i64) {
        self.number((number.cast_unsigned() << 1) ^ (number >> 63).cast_unsigned());
    }

    pub(in crate::trace) fn text(&mut self, text: &[u8]) {
        self.number(text.len() as u64);
        self.raw(text);
    }

    /// Ends the record. If there was no memory for it, removes it and returns `None`.
    pub(in crate::trace) fn end(mut self) -> Option<()> {
        let content = self.start + HEAD_BYTES;
        let sum = checksum(self.out.get(content..).unwrap_or_default());
        let len = u32::try_from(self.out.len().saturating_sub(content)).ok();
        self.raw(&sum.to_le_bytes());
        match (self.whole, len, self.out.get_mut(self.start + 1..content)) {
            (Some(()), Some(len), Some(place)) => {
                place.copy_from_slice(&len.to_le_bytes());
                Some(())
            }
            _ => {
                self.out.truncate(self.start);
                None
            }
        }
    }
}

/// Which stacks and modules were defined, as bits.
pub(in crate::trace) struct Defined {
    stacks: Mapped<u64>,
    modules: Mapped<u64>,
}

/// Sets a bit; returns whether it was set before.
fn set(bits: &mut [u64], number: usize) -> bool {
    let Some(word) = bits.get_mut(number / 64) else { return true };
    let was = *word >> (number % 64) & 1 == 1;
    *word |= 1 << (number % 64);
    was
}

impl Defined {
    pub(in crate::trace) const NONE: Self = Self { stacks: Mapped::new(), modules: Mapped::new() };

    /// Empty sets; `None` if there is no memory (2 MiB of addresses, touched as needed).
    pub(in crate::trace) fn new() -> Option<Self> {
        Some(Self { stacks: Mapped::zeroed(1 << (StackId::BITS - 6))?, modules: Mapped::zeroed((1 << 16) / 64)? })
    }

    pub(in crate::trace) fn is_empty(&self) -> bool {
        self.stacks.is_empty()
    }

    /// Defines a stack and the modules of its frames, unless it was defined before; `None` if there is no memory.
    pub(in crate::trace) fn define(&mut self, stack: StackId, out: &mut Records) -> Option<()> {
        if set(&mut self.stacks, stack.number() as usize) {
            return Some(());
        }
        let mut frames = [0; FRAMES_MAX + capture::ALLOCATOR_FRAMES];
        let len = stacks::copy(stack, &mut frames);
        let frames = &frames[..len];
        for &word in frames {
            let number = loaded::number_of(word);
            if number != Number::NONE && !set(&mut self.modules, usize::from(number.get())) {
                write_module(number, out)?;
            }
        }
        let mut record = out.begin(STACK);
        record.number(u64::from(stack.number()));
        record.number(len as u64);
        frames.iter().for_each(|&word| record.number(word as u64));
        record.end()
    }
}

fn write_module(number: Number, out: &mut Records) -> Option<()> {
    let Some(module) = loaded::particulars(number) else { return Some(()) };
    let mut path = [0; PATH_MAX];
    let len = loaded::path(number, &mut path);
    let own: fn(Number, &mut Records) -> Option<()> = write_module;
    let (start, end) = module.mapped;
    // All of the preload library is the allocator. In other programs the allocator's frames are known by their names.
    let is_own = cfg!(feature = "__raw") && cfg!(not(test)) && (start..end).contains(&(own as usize));
    let is_library = path[..len].ends_with(b".so");
    let mut record = out.begin(MODULE);
    record.number(u64::from(number.get()));
    record.number(module.base as u64);
    record.number(module.code.0 as u64);
    record.number(module.code.1 as u64);
    record.number(module.code_offset);
    record.number(u64::from(is_own && is_library));
    record.text(module.build_id());
    record.text(&path[..len]);
    record.end()
}
