//! Sums over a snapshot's traces, and the differences of two.

use core::cmp::Reverse;
use core::fmt;
use core::ops::Deref;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::snapshot::Snapshot;
use super::text::{Bytes, SignedBytes};
use crate::trace::names::traceback::{Frame, Traceback};
use crate::trace::record::sampling::weight;
use crate::trace::record::state::Busy;

/// What statistics sum by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum By {
    /// The source file of the frame that is charged ([`Traceback::cause`]).
    File,
    /// Its file and line.
    Line,
    /// Its function.
    Function,
    /// The whole traceback.
    Traceback,
}

/// The live bytes and blocks of one file, line, function or traceback.
///
/// Its `Display` is tracemalloc's: `src/x.rs:12: size=4855 KiB, count=39328, average=126 B`. In a sampled snapshot the
/// bytes and blocks are estimates, and `±` gives one standard error.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
#[doc(alias = "tracemalloc.Statistic")]
pub struct Statistic {
    /// How the sums were formed.
    pub by: By,
    /// The place. Except with [`By::Traceback`] it is a single frame, which has only the file, the line or the function
    /// that it stands for.
    pub traceback: Traceback,
    /// Live bytes, as requested.
    pub bytes: usize,
    /// Live blocks.
    pub blocks: usize,
    /// One standard error of `bytes`; 0 when every block was traced.
    pub bytes_error: f64,
    /// One standard error of `blocks`; 0 when every block was traced.
    pub blocks_error: f64,
}

/// The change of one file, line, function or traceback from one snapshot to another.
///
/// Its `Display` is tracemalloc's: `src/x.rs:12: size=8173 KiB (+4428 KiB), count=71332 (+39369), average=117 B`.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
#[doc(alias = "tracemalloc.StatisticDiff")]
pub struct StatisticDiff {
    /// How the sums were formed.
    pub by: By,
    /// The place, as in [`Statistic`].
    pub traceback: Traceback,
    /// Bytes now.
    pub bytes: usize,
    /// Bytes now, minus bytes then.
    pub bytes_diff: isize,
    /// Blocks now.
    pub blocks: usize,
    /// Blocks now, minus blocks then.
    pub blocks_diff: isize,
    /// One standard error of `bytes_diff`; 0 when every block was traced.
    pub bytes_error: f64,
}

/// Statistics, sorted, with the largest first.
///
/// Its `Display` writes one line per row; [`top`](Self::top) limits the rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Ranking<T> {
    rows: Vec<T>,
}

/// The first rows of a [`Ranking`] and the sum of the others, to be displayed.
#[derive(Debug, Clone, Copy)]
pub struct Top<'ranking, T> {
    ranking: &'ranking Ranking<T>,
    count: usize,
}

#[derive(Clone, Copy, Default)]
struct Sum {
    bytes: f64,
    blocks: f64,
    bytes_variance: f64,
    blocks_variance: f64,
}

impl Sum {
    /// Adds blocks of a size, each sampled with `interval`.
    fn add(&mut self, bytes: u64, blocks: u64, interval: u64) {
        let (weight, bytes, blocks) = (weight(bytes, interval), bytes as f64, blocks as f64);
        self.blocks += blocks * weight.count;
        self.bytes += blocks * weight.count * bytes;
        self.blocks_variance += blocks * weight.count_variance;
        self.bytes_variance += blocks * weight.count_variance * bytes * bytes;
    }
}

impl Snapshot {
    /// Sums up the traces, each charged to one file, line or function ([`Traceback::cause`]), or to its traceback.
    ///
    /// Rows with the most bytes come first; of rows with equal bytes, those with more blocks.
    pub fn statistics(&self, by: By) -> Ranking<Statistic> {
        self.rank(by, false)
    }

    /// Sums up the traces, each charged once to every file, line or function that it has a frame in.
    ///
    /// So the rows add up to more than the snapshot's bytes. With [`By::Traceback`] the result is the same as
    /// [`statistics`](Self::statistics).
    pub fn cumulative_statistics(&self, by: By) -> Ranking<Statistic> {
        self.rank(by, true)
    }

    fn rank(&self, by: By, cumulative: bool) -> Ranking<Statistic> {
        let _busy = Busy::enter();
        let mut rows: Vec<Statistic> = self
            .sums(by, cumulative)
            .into_iter()
            .map(|(traceback, sum)| Statistic {
                by,
                traceback,
                bytes: sum.bytes.round() as usize,
                blocks: sum.blocks.round() as usize,
                bytes_error: sum.bytes_variance.sqrt(),
                blocks_error: sum.blocks_variance.sqrt(),
            })
            .collect();
        rows.sort_by(|one, other| {
            let key = |row: &Statistic| (row.bytes, row.blocks);
            key(other).cmp(&key(one)).then_with(|| other.traceback.cmp(&one.traceback))
        });
        Ranking { rows }
    }

    /// The changes since an older snapshot.
    ///
    /// The largest changes of bytes come first, whatever their sign.
    pub fn compare_to(&self, old: &Self, by: By) -> Ranking<StatisticDiff> {
        self.compare(old, by, false)
    }

    /// Compares as [`compare_to`](Self::compare_to) does, but the sums of
    /// [`cumulative_statistics`](Self::cumulative_statistics).
    pub fn cumulative_compare_to(&self, old: &Self, by: By) -> Ranking<StatisticDiff> {
        self.compare(old, by, true)
    }

    fn compare(&self, old: &Self, by: By, cumulative: bool) -> Ranking<StatisticDiff> {
        let _busy = Busy::enter();
        let mut then = old.sums(by, cumulative);
        let now = self.sums(by, cumulative).into_iter().map(|(traceback, now)| {
            let then = then.remove(&traceback).unwrap_or_default();
            (traceback, now, then)
        });
        let now: Vec<_> = now.collect();
        let gone = then.into_iter().map(|(traceback, then)| (traceback, Sum::default(), then));
        let mut rows: Vec<StatisticDiff> = now
            .into_iter()
            .chain(gone)
            .map(|(traceback, now, then)| StatisticDiff {
                by,
                traceback,
                bytes: now.bytes.round() as usize,
                bytes_diff: (now.bytes.round() - then.bytes.round()) as isize,
                blocks: now.blocks.round() as usize,
                blocks_diff: (now.blocks.round() - then.blocks.round()) as isize,
                bytes_error: (now.bytes_variance + then.bytes_variance).sqrt(),
            })
            .collect();
        rows.sort_by_cached_key(|row| {
            let key = (row.bytes_diff.unsigned_abs(), row.bytes, row.blocks_diff.unsigned_abs(), row.blocks);
            Reverse((key, row.traceback.clone()))
        });
        Ranking { rows }
    }

    /// Bytes of all blocks, as requested; an estimate if sampled.
    pub fn bytes(&self) -> usize {
        self.sum().bytes.round() as usize
    }

    /// One standard error of [`bytes`](Self::bytes); 0 when every block was traced.
    pub fn bytes_error(&self) -> f64 {
        self.sum().bytes_variance.sqrt()
    }

    /// The number of blocks; an estimate if sampled.
    pub fn blocks(&self) -> usize {
        self.sum().blocks.round() as usize
    }

    fn sum(&self) -> Sum {
        let mut sum = Sum::default();
        for trace in &self.traces {
            sum.add(trace.bytes, trace.count, self.interval);
        }
        sum
    }

    fn sums(&self, by: By, cumulative: bool) -> HashMap<Traceback, Sum> {
        let keys: Vec<Vec<Traceback>> =
            self.stacks.iter().map(|stack| keys(&stack.traceback, by, cumulative)).collect();
        let mut sums: HashMap<Traceback, Sum> = HashMap::new();
        for trace in &self.traces {
            for key in &keys[trace.stack] {
                sums.entry(key.clone()).or_default().add(trace.bytes, trace.count, self.interval);
            }
        }
        sums
    }
}

/// The rows that a trace is charged to.
fn keys(traceback: &Traceback, by: By, cumulative: bool) -> Vec<Traceback> {
    let nothing: Arc<str> = "".into();
    let key = |frame: &Frame| {
        let Frame { file, line, function } = frame.clone();
        let frame = match by {
            By::File => Frame { file, line: 0, function: Arc::clone(&nothing) },
            By::Line => Frame { file, line, function: Arc::clone(&nothing) },
            By::Function => Frame { file: Arc::clone(&nothing), line: 0, function },
            By::Traceback => return traceback.clone(),
        };
        Traceback::new(vec![frame])
    };
    if cumulative {
        let keys: HashSet<Traceback> = traceback.frames().iter().map(key).collect();
        keys.into_iter().collect()
    } else {
        vec![key(traceback.cause())]
    }
}

/// The name of a row, in its `Display`.
struct Name<'row>(By, &'row Traceback);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let frame = self.1.cause();
        match self.0 {
            By::File => f.write_str(&frame.file),
            By::Function => f.write_str(&frame.function),
            By::Line | By::Traceback => write!(f, "{frame}"),
        }
    }
}

/// One standard error of some bytes, or nothing.
struct StandardError(f64);

impl fmt::Display for StandardError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 > 0.0 { write!(f, " ± {}", Bytes(self.0)) } else { Ok(()) }
    }
}

fn write_average(f: &mut fmt::Formatter<'_>, bytes: usize, blocks: usize) -> fmt::Result {
    match bytes.checked_div(blocks) {
        Some(_) => write!(f, ", average={}", Bytes(bytes as f64 / blocks as f64)),
        None => Ok(()),
    }
}

impl fmt::Display for Statistic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Name(self.by, &self.traceback);
        write!(
            f,
            "{name}: size={}{}, count={}",
            Bytes(self.bytes as f64),
            StandardError(self.bytes_error),
            self.blocks
        )?;
        write_average(f, self.bytes, self.blocks)
    }
}

impl fmt::Display for StatisticDiff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, diff) = (Name(self.by, &self.traceback), SignedBytes(self.bytes_diff as f64));
        write!(f, "{name}: size={} ({diff}{})", Bytes(self.bytes as f64), StandardError(self.bytes_error))?;
        write!(f, ", count={} ({:+})", self.blocks, self.blocks_diff)?;
        write_average(f, self.bytes, self.blocks)
    }
}

impl<T> Deref for Ranking<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.rows
    }
}

impl<T> IntoIterator for Ranking<T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.rows.into_iter()
    }
}

impl<'ranking, T> IntoIterator for &'ranking Ranking<T> {
    type Item = &'ranking T;
    type IntoIter = std::slice::Iter<'ranking, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.rows.iter()
    }
}

impl<T> Ranking<T> {
    /// The first `count` rows, to be displayed: one line per row, and one for the sum of the others.
    ///
    /// Below a row by traceback come its frames.
    pub const fn top(&self, count: usize) -> Top<'_, T> {
        Top { ranking: self, count }
    }
}

/// A kind of statistic, as [`Top`] shows it.
pub trait Row: fmt::Display + sealed::Row {}

impl Row for Statistic {}
impl Row for StatisticDiff {}

mod sealed {
    use super::{By, SignedBytes, Statistic, StatisticDiff, Traceback};

    pub trait Row {
        /// The frames to show below, if any.
        fn frames(&self) -> Option<&Traceback>;
        /// Bytes, for the sum of the rows not shown.
        fn amount(&self) -> f64;
        /// Writes such a sum.
        fn text(amount: f64) -> String;
    }

    impl Row for Statistic {
        fn frames(&self) -> Option<&Traceback> {
            (self.by == By::Traceback).then_some(&self.traceback)
        }

        fn amount(&self) -> f64 {
            self.bytes as f64
        }

        fn text(amount: f64) -> String {
            super::Bytes(amount).to_string()
        }
    }

    impl Row for StatisticDiff {
        fn frames(&self) -> Option<&Traceback> {
            (self.by == By::Traceback).then_some(&self.traceback)
        }

        fn amount(&self) -> f64 {
            self.bytes_diff as f64
        }

        fn text(amount: f64) -> String {
            SignedBytes(amount).to_string()
        }
    }
}

impl<T: Row> fmt::Display for Top<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = &self.ranking.rows;
        let (shown, others) = rows.split_at(self.count.min(rows.len()));
        for row in shown {
            writeln!(f, "{row}")?;
            if let Some(frames) = row.frames() {
                write!(f, "{frames}")?;
            }
        }
        if !others.is_empty() {
            let sum = others.iter().map(sealed::Row::amount).sum();
            writeln!(f, "{} other: {}", others.len(), T::text(sum))?;
        }
        Ok(())
    }
}

impl<T: Row> fmt::Display for Ranking<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.top(usize::MAX))
    }
}
