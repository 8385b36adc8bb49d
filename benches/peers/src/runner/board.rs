//! Medians, ratios and geometric means.

use crate::arguments::{Mode, Options};
use crate::overhead::{LARGE_HEAP_BYTES, comparable_overhead, overhead};
use crate::run::{Run, Runs};
use peers::allocators::Allocator;
use peers::catalog::{Entry, Theme};
use peers::sample::Sample;

/// A workload belongs to the small set if at least this share of its requests is small.
const SMALL_SET_SHARE: f64 = 0.99;
/// The workload whose peak RSS is the start-up RSS of an allocator.
const START_STOP: &str = "start-stop";

/// All results of one build mode.
#[derive(Debug)]
pub struct Board {
    /// How the workers were built.
    pub mode: Mode,
    /// The columns, the baseline first.
    pub allocators: Vec<&'static Allocator>,
    /// The workloads that ran.
    pub rows: Vec<Row>,
    /// Runs behind each median.
    pub rounds: usize,
}

/// The results of one workload.
#[derive(Debug)]
pub struct Row {
    /// The workload.
    pub workload: &'static Entry,
    /// The share of small ones among its requests, if it was counted.
    pub small_share: Option<f64>,
    /// The share of their bytes among those asked for, if it was counted.
    pub small_byte_share: Option<f64>,
    /// Bytes asked for and live at the peak, if it was counted.
    pub counted_live_bytes: Option<u64>,
    /// Medians field by field, one for each allocator; `None` where it failed.
    pub cells: Vec<Option<Sample>>,
    /// Memory overhead in bytes, one for each allocator; `None` where a figure for it is unknown.
    pub overheads: Vec<Option<i64>>,
}

/// A figure by which allocators are compared: less is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// Nanoseconds per operation.
    Time,
    /// Nanoseconds of all processors together, per operation.
    CpuTime,
    /// Highest RSS of the process.
    PeakRss,
    /// RSS of the process at the end.
    EndRss,
    /// RSS of the process at the end, as a share of its highest.
    EndShare,
    /// Memory overhead, as far as it can be compared (see `overhead`).
    Overhead,
}

impl Board {
    /// The medians of all runs in that mode.
    pub fn new(mode: Mode, options: &Options, runs: &Runs) -> Self {
        Self::of_runs(mode, options, runs, |_| true)
    }

    /// The results of each round on its own: their spread is the noise.
    pub fn of_each_round(mode: Mode, options: &Options, runs: &Runs) -> Vec<Self> {
        (0..options.rounds)
            .map(|round| Self::of_runs(mode, options, runs, |run| run.round == round))
            .collect()
    }

    fn of_runs(mode: Mode, options: &Options, runs: &Runs, include: impl Fn(&Run) -> bool) -> Self {
        // All choices of runs have the same columns.
        let has_runs = |allocator: &&'static Allocator| {
            runs.done.iter().any(|run| run.mode == mode && run.allocator.name == allocator.name)
        };
        let allocators: Vec<_> = options.allocators.iter().copied().filter(has_runs).collect();
        let row = |&workload: &&'static Entry| {
            let cell = |allocator: &&'static Allocator| {
                let samples = runs.done.iter().filter(|run| {
                    (run.mode, run.workload.name, run.allocator.name)
                        == (mode, workload.name, allocator.name)
                        && include(run)
                });
                median_of_fields(samples.map(|run| run.sample.values()).collect())
            };
            let counted = runs.counted.get(workload.name);
            let share = |part: u64, whole: u64| part as f64 / whole.max(1) as f64;
            Row {
                workload,
                small_share: counted.map(|count| share(count.small_requests, count.requests)),
                small_byte_share: counted
                    .map(|count| share(count.small_bytes, count.requested_bytes)),
                counted_live_bytes: counted.map(|count| count.counted_live_bytes),
                cells: allocators.iter().map(cell).collect(),
                overheads: Vec::new(),
            }
        };
        let rows: Vec<Row> = options.workloads.iter().map(row).collect();
        let has_cells = |row: &Row| row.cells.iter().any(Option::is_some);
        let rows = rows.into_iter().filter(has_cells).collect();
        let in_mode = runs.done.iter().filter(|run| run.mode == mode);
        let rounds = in_mode.map(|run| run.round + 1).max().unwrap_or_default();
        let mut board = Self { mode, allocators, rows, rounds };
        board.find_overheads();
        board
    }

    /// Fills in each row's memory overheads.
    pub fn find_overheads(&mut self) {
        let start_up: Vec<Option<u64>> = (0..self.allocators.len())
            .map(|column| Some(self.row(START_STOP)?.cells[column]?.peak_rss))
            .collect();
        for row in &mut self.rows {
            let of_column = |column: usize| {
                let peak_rss = row.cells[column]?.peak_rss;
                Some(overhead(peak_rss, row.counted_live_bytes?, start_up[column]?))
            };
            let is_start_up = row.workload.name == START_STOP;
            row.overheads = (0..start_up.len())
                .map(|column| if is_start_up { None } else { of_column(column) })
                .collect();
        }
    }

    /// The row of a workload.
    pub fn row(&self, workload: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.workload.name == workload)
    }

    /// The column of an allocator.
    pub fn column(&self, allocator: &str) -> Option<usize> {
        self.allocators.iter().position(|own| own.name == allocator)
    }

    /// The geometric mean of an allocator's ratios to the baseline over some rows, and the number of rows in which both
    /// finished.
    pub fn mean_ratio(
        &self,
        column: usize,
        metric: Metric,
        include: impl Fn(&Row) -> bool,
    ) -> Option<(f64, usize)> {
        self.mean_ratio_of(column, 0, metric, include)
    }

    /// The same for any two allocators: the first one's figures, as multiples of the second one's.
    pub fn mean_ratio_of(
        &self,
        column: usize,
        other: usize,
        metric: Metric,
        include: impl Fn(&Row) -> bool,
    ) -> Option<(f64, usize)> {
        let rows = self.rows.iter().filter(|row| include(row));
        let logarithms: Vec<f64> =
            rows.filter_map(|row| row.ratio_of(column, other, metric)).map(f64::ln).collect();
        let count = logarithms.len();
        (count > 0).then(|| ((logarithms.iter().sum::<f64>() / count as f64).exp(), count))
    }
}

impl Row {
    /// An allocator's figure.
    pub fn figure(&self, column: usize, metric: Metric) -> Option<f64> {
        let sample = self.cells[column].as_ref()?;
        let operations = sample.operations.max(1) as f64;
        Some(match metric {
            Metric::Time => sample.nanos as f64 / operations,
            Metric::CpuTime => (sample.user_nanos + sample.system_nanos) as f64 / operations,
            Metric::PeakRss => sample.peak_rss as f64,
            Metric::EndRss => sample.end_rss as f64,
            Metric::EndShare => sample.end_rss as f64 / sample.peak_rss as f64,
            Metric::Overhead => comparable_overhead(self.overheads[column]?),
        })
    }

    /// An allocator's figure as a multiple of the baseline's.
    pub fn ratio(&self, column: usize, metric: Metric) -> Option<f64> {
        self.ratio_of(column, 0, metric)
    }

    /// An allocator's figure as a multiple of another one's.
    pub fn ratio_of(&self, column: usize, other: usize, metric: Metric) -> Option<f64> {
        Some(self.figure(column, metric)? / self.figure(other, metric)?)
    }

    /// Whether the workload counts in overall means. Those of a series don't, because the series would count many
    /// times.
    pub const fn is_single(&self) -> bool {
        !matches!(self.workload.theme, Theme::Scaling | Theme::Live)
    }

    /// Whether nearly all of its requests are small.
    pub fn is_small(&self) -> bool {
        self.small_share.is_some_and(|share| share >= SMALL_SET_SHARE)
    }

    /// Whether it counts in the means of the small set.
    pub fn is_in_small_set(&self) -> bool {
        self.is_single() && self.is_small()
    }

    /// Whether enough is live that the overhead is more than noise.
    pub fn has_large_heap(&self) -> bool {
        self.counted_live_bytes.is_some_and(|bytes| bytes >= LARGE_HEAP_BYTES)
    }

    /// RSS of the allocations per byte asked for, where the workload reports it.
    pub fn rss_per_byte(&self, column: usize) -> Option<f64> {
        let sample = self.cells[column].as_ref()?;
        let grown = sample.end_rss.saturating_sub(sample.start_rss);
        (sample.live_bytes > 0).then(|| grown as f64 / sample.live_bytes as f64)
    }
}

/// The median of each field on its own; of an even number of runs, the mean of the middle two.
fn median_of_fields(samples: Vec<Vec<u64>>) -> Option<Sample> {
    let fields = samples.first()?.len();
    let median = |field: usize| {
        let mut values: Vec<u64> = samples.iter().map(|values| values[field]).collect();
        values.sort_unstable();
        let (low, high) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
        low.midpoint(high)
    };
    Some(Sample::from_values(&(0..fields).map(median).collect::<Vec<_>>()))
}

#[cfg(test)]
mod tests {
    use super::median_of_fields;

    #[test]
    fn the_median_is_taken_field_by_field() {
        let median = |samples: &[[u64; 2]]| {
            median_of_fields(samples.iter().map(|sample| sample.to_vec()).collect())
                .map(|sample| (sample.nanos, sample.operations))
        };
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[[9, 1], [1, 5], [5, 9]]), Some((5, 5)));
        assert_eq!(median(&[[2, 8], [4, 6]]), Some((3, 7)));
    }
}
