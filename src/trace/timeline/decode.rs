//! Decodes records from bytes that can't be trusted: a file that may be cut, damaged or something else, or a server's
//! answer. The format is in `record/encode`.

use crate::trace::names::recorded::RecordedModule;
use crate::trace::record::encode::{self, CHECKSUM_BYTES, HEAD_BYTES, checksum};

/// What the first bytes are.
#[derive(Debug, PartialEq)]
pub(in crate::trace) enum Split<'bytes> {
    Whole {
        kind: u8,
        content: &'bytes [u8],
        rest: &'bytes [u8],
    },
    /// There are fewer bytes than the record has.
    Cut,
    /// The checksum says that they are not what was written.
    Damaged,
}

/// Takes the first record off.
pub(in crate::trace) fn split(bytes: &[u8]) -> Split<'_> {
    let Some(([kind, len @ ..], after)) = bytes.split_first_chunk::<HEAD_BYTES>() else { return Split::Cut };
    let Some((content, after)) = after.split_at_checked(u32::from_le_bytes(*len) as usize) else { return Split::Cut };
    let Some((sum, rest)) = after.split_first_chunk::<CHECKSUM_BYTES>() else { return Split::Cut };
    if u32::from_le_bytes(*sum) != checksum(content) {
        return Split::Damaged;
    }
    Split::Whole { kind: *kind, content, rest }
}

/// A record's content, or the rest of it. Its methods return `None` if the bytes are not what they should be.
#[derive(Clone, Copy)]
pub(in crate::trace) struct Content<'bytes>(pub(in crate::trace) &'bytes [u8]);

impl<'bytes> Content<'bytes> {
    pub(in crate::trace) fn number(&mut self) -> Option<u64> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            let low = u64::from(byte & 0x7f);
            if shift == 63 && low > 1 {
                return None;
            }
            number |= low << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    pub(in crate::trace) fn signed(&mut self) -> Option<i64> {
        let number = self.number()?;
        Some((number >> 1).cast_signed() ^ -((number & 1).cast_signed()))
    }

    pub(in crate::trace) fn small<T: TryFrom<u64>>(&mut self) -> Option<T> {
        T::try_from(self.number()?).ok()
    }

    /// A count of items that take at least a byte each: so it is at most the number of bytes left.
    pub(in crate::trace) fn count(&mut self) -> Option<usize> {
        self.small().filter(|&count| count <= self.0.len())
    }

    pub(in crate::trace) fn bytes(&mut self) -> Option<&'bytes [u8]> {
        let len = self.count()?;
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }

    pub(in crate::trace) fn text(&mut self) -> Option<String> {
        self.bytes().map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    }
}

/// The process that recorded.
#[derive(Debug, Clone, Default, PartialEq)]
pub(in crate::trace) struct Head {
    pub(in crate::trace) process: u32,
    /// Nanoseconds since 1970.
    pub(in crate::trace) started: u64,
    /// Milliseconds.
    pub(in crate::trace) interval: u64,
    pub(in crate::trace) sampled_every: u64,
    pub(in crate::trace) frames: usize,
    pub(in crate::trace) program: String,
    pub(in crate::trace) folder: String,
}

/// Blocks of a stack that were allocated or freed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::trace) struct Change {
    pub(in crate::trace) stack: u32,
    /// The number of samples between the blocks' interval and this sample.
    pub(in crate::trace) age: u64,
    pub(in crate::trace) bytes: i64,
    pub(in crate::trace) blocks: i64,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(in crate::trace) struct Sample {
    pub(in crate::trace) kind: u64,
    /// Nanoseconds since the start.
    pub(in crate::trace) time: u64,
    pub(in crate::trace) live: u64,
    pub(in crate::trace) most: u64,
    pub(in crate::trace) resident: u64,
    pub(in crate::trace) arenas: u64,
    pub(in crate::trace) lost: u64,
    pub(in crate::trace) changes: Vec<Change>,
}

/// A decoded record.
#[derive(Debug)]
pub(in crate::trace) enum Item {
    Head(Head),
    Module(u16, RecordedModule),
    /// Its number, and its return addresses with their modules, innermost first.
    Stack(u32, Vec<usize>),
    Sample(Sample),
    End,
    /// All that is live; the ages have no meaning.
    Live(Sample),
    Text(String),
    Pools(Vec<u8>),
}

impl Item {
    /// Decodes a record; `None` if it is malformed.
    pub(in crate::trace) fn of(kind: u8, content: &[u8]) -> Option<Self> {
        let mut content = Content(content);
        Some(match kind {
            encode::HEAD => Self::Head(head(&mut content)?),
            encode::MODULE => Self::Module(content.small()?, module(&mut content)?),
            encode::STACK => {
                let number = content.small()?;
                let count = content.count()?;
                Self::Stack(number, (0..count).map(|_| content.small()).collect::<Option<_>>()?)
            }
            encode::SAMPLE => Self::Sample(sample(&mut content, true)?),
            encode::LIVE => Self::Live(sample(&mut content, false)?),
            encode::END => Self::End,
            encode::TEXT => Self::Text(String::from_utf8_lossy(content.0).into_owned()),
            encode::POOLS => Self::Pools(content.0.to_vec()),
            _ => return None,
        })
    }
}

fn head(content: &mut Content<'_>) -> Option<Head> {
    Some(Head {
        process: content.small()?,
        started: content.number()?,
        interval: content.number()?,
        sampled_every: content.number()?,
        frames: content.small()?,
        program: content.text()?,
        folder: content.text()?,
    })
}

fn module(content: &mut Content<'_>) -> Option<RecordedModule> {
    Some(RecordedModule {
        base: content.small()?,
        code: (content.number()?, content.number()?),
        code_offset: content.number()?,
        is_allocator: content.number()? != 0,
        build_id: content.bytes()?.to_vec(),
        file: content.text()?,
    })
}

fn sample(content: &mut Content<'_>, has_ages: bool) -> Option<Sample> {
    let mut sample = Sample {
        kind: content.number()?,
        time: content.number()?,
        live: content.number()?,
        most: content.number()?,
        resident: content.number()?,
        arenas: content.number()?,
        lost: content.number()?,
        changes: Vec::new(),
    };
    let count = content.count()?;
    let change = |_| {
        let stack = content.small()?;
        let age = if has_ages { content.number()? } else { 0 };
        Some(Change { stack, age, bytes: content.signed()?, blocks: content.signed()? })
    };
    sample.changes = (0..count).map(change).collect::<Option<_>>()?;
    Some(sample)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::record::encode::Records;

    #[test]
    fn numbers_come_back_and_every_prefix_of_a_record_is_cut() {
        let numbers = [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX];
        let signed = [0, -1, 1, i64::MIN, i64::MAX, -64, 64];
        let mut records = Records::new();
        let mut record = records.begin(encode::END);
        numbers.iter().for_each(|&number| record.number(number));
        signed.iter().for_each(|&number| record.signed(number));
        record.text(b"text");
        record.end().expect("memory");
        let Split::Whole { kind, content, rest } = split(&records.bytes) else { panic!("whole") };
        assert!(kind == encode::END && rest.is_empty());
        let mut content = Content(content);
        assert_eq!(numbers.map(|_| content.number().expect("there")), numbers);
        assert_eq!(signed.map(|_| content.signed().expect("there")), signed);
        assert_eq!(content.text().as_deref(), Some("text"));
        assert_eq!(content.number(), None);
        for len in 0..records.bytes.len() {
            assert_eq!(split(&records.bytes[..len]), Split::Cut);
        }
        for place in HEAD_BYTES..records.bytes.len() {
            let mut damaged = records.bytes.to_vec();
            damaged[place] ^= 0x10;
            assert_eq!(split(&damaged), Split::Damaged);
        }
    }
}
