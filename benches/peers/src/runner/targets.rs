//! The project's targets: what a result should be, what it is, and how far apart the two are.
//!
//! A smaller figure is better. Each figure is computed from medians, and once more from each round alone; the range of
//! the latter is the noise. Medians decide which peer is the fastest or the smallest.

use crate::arguments::Mode;
use crate::board::{Board, Metric, Row};
use peers::catalog::Theme;

/// The allocators that targets name.
const GLIBC: &str = "glibc";
const OURS_OVER_MIMALLOC: &str = "py+mi3";
const MIMALLOC: &str = "mimalloc3";

/// All targets of one build mode for which there are results.
#[derive(Debug)]
pub struct Targets {
    /// How the workers were built.
    pub mode: Mode,
    /// The targets.
    pub lines: Vec<Line>,
}

/// One target.
#[derive(Debug)]
pub struct Line {
    /// The figure that is compared.
    pub target: &'static str,
    /// The workload; empty if there are many.
    pub workload: String,
    /// The peer to compare with; empty if there is none.
    pub peer: String,
    /// The measured figure.
    pub figure: f64,
    /// The lowest and the highest figure of single rounds.
    pub range: (f64, f64),
    /// The most that the figure may be; `None` if no limit was set.
    pub limit: Option<f64>,
}

/// The verdict on a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// In each round.
    Met,
    /// Met by the medians, but not in each round.
    MetWithinNoise,
    /// Missed by the medians, but met in some round.
    MissedWithinNoise,
    /// In each round.
    Missed,
    /// There is no limit.
    NoLimit,
}

impl Verdict {
    /// The word in tables and files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Met => "met",
            Self::MetWithinNoise => "met~",
            Self::MissedWithinNoise => "missed~",
            Self::Missed => "missed",
            Self::NoLimit => "-",
        }
    }

    /// Whether the medians meet the limit, noise or not.
    pub const fn is_missed(self) -> bool {
        matches!(self, Self::Missed | Self::MissedWithinNoise)
    }
}

impl Line {
    /// Met or missed.
    pub fn verdict(&self) -> Verdict {
        let Some(limit) = self.limit else { return Verdict::NoLimit };
        match (self.figure <= limit, self.range.0 <= limit, self.range.1 <= limit) {
            (true, _, true) => Verdict::Met,
            (true, _, false) => Verdict::MetWithinNoise,
            (false, true, _) => Verdict::MissedWithinNoise,
            (false, false, _) => Verdict::Missed,
        }
    }

    /// How far the figure is above the limit (negative: below), in percent of the limit.
    pub fn beyond_percent(&self) -> Option<f64> {
        self.limit.map(|limit| (self.figure / limit - 1.0) * 100.0)
    }
}

/// The board of medians and those of the rounds.
struct Results<'a> {
    board: &'a Board,
    rounds: &'a [Board],
}

impl Targets {
    /// Computes all targets for which there are results.
    pub fn new(board: &Board, rounds: &[Board]) -> Self {
        let results = Results { board, rounds };
        let mut lines = Vec::new();
        if !board.allocators.is_empty() {
            results.means(&mut lines);
            results.overhead(&mut lines);
            results.density(&mut lines);
            results.special_workloads(&mut lines);
            results.programs(&mut lines);
            results.series(&mut lines);
            results.each_workload(&mut lines);
        }
        Self { mode: board.mode, lines }
    }
}

/// The columns of the peers: of all allocators that are not ours.
fn peers(board: &Board) -> impl Iterator<Item = usize> + '_ {
    (0..board.allocators.len()).filter(|&column| !board.allocators[column].is_ours())
}

/// The peer with the smallest value of some figure.
fn smallest(board: &Board, figure: impl Fn(usize) -> Option<f64>) -> Option<usize> {
    let figures = peers(board).filter_map(|peer| Some((peer, figure(peer)?)));
    figures.min_by(|one, other| one.1.total_cmp(&other.1)).map(|(peer, _)| peer)
}

/// The mean of the first allocator's figures as multiples of the second one's.
fn mean(
    board: &Board,
    column: usize,
    other: usize,
    metric: Metric,
    include: impl Fn(&Row) -> bool,
) -> Option<f64> {
    board.mean_ratio_of(column, other, metric, include).map(|(mean, _)| mean)
}

impl Results<'_> {
    fn line(
        &self,
        target: &'static str,
        workload: &str,
        peer: Option<usize>,
        limit: Option<f64>,
        figure: impl Fn(&Board) -> Option<f64>,
    ) -> Option<Line> {
        let of_medians = figure(self.board)?;
        let of_rounds = self.rounds.iter().filter_map(&figure);
        let range = of_rounds
            .fold((of_medians, of_medians), |(low, high), one| (low.min(one), high.max(one)));
        let peer = peer.map_or("", |peer| self.board.allocators[peer].name).to_owned();
        Some(Line { target, workload: workload.to_owned(), peer, figure: of_medians, range, limit })
    }

    /// Speed over the whole small set.
    fn means(&self, lines: &mut Vec<Line>) {
        let figure = |board: &Board, peer| mean(board, 0, peer, Metric::Time, Row::is_in_small_set);
        // The best peer is the one over which our lead is smallest.
        let best = smallest(self.board, |peer| Some(-figure(self.board, peer)?));
        let Some(best) = best else { return };
        lines.extend(self.line(
            "mean time, small set, against the best single peer",
            "",
            Some(best),
            Some(0.75),
            |board| figure(board, best),
        ));
    }

    /// Memory, against the smallest peer that is not slower than glibc.
    fn overhead(&self, lines: &mut Vec<Line>) {
        let Some(glibc) = self.board.column(GLIBC) else { return };
        let figure =
            |board: &Board, peer| mean(board, 0, peer, Metric::Overhead, Row::is_in_small_set);
        let smallest = smallest(self.board, |peer| {
            let time = mean(self.board, peer, glibc, Metric::Time, Row::is_in_small_set)?;
            if time <= 1.0 { Some(-figure(self.board, peer)?) } else { None }
        });
        let Some(peer) = smallest else { return };
        let limit = Some(0.60);
        lines.extend(self.line(
            "mean memory overhead, small set, against the smallest peer not slower than glibc",
            "",
            Some(peer),
            limit,
            |board| figure(board, peer),
        ));
        lines.extend(self.line(
            "the same over workloads with 4 MiB live or more",
            "",
            Some(peer),
            limit,
            |board| {
                let include = |row: &Row| row.is_in_small_set() && row.has_large_heap();
                mean(board, 0, peer, Metric::Overhead, include)
            },
        ));
        for row in self.board.rows.iter().filter(|row| row.is_small()) {
            let name = row.workload.name;
            lines.extend(self.line(PEAK_RSS, name, Some(peer), Some(1.0), |board| {
                board.row(name)?.ratio_of(0, peer, Metric::PeakRss)
            }));
        }
    }

    /// RSS per byte asked for.
    fn density(&self, lines: &mut Vec<Line>) {
        for row in &self.board.rows {
            let name = row.workload.name;
            let bytes = name.strip_prefix("density-").and_then(|bytes| bytes.parse::<u32>().ok());
            let limit = match bytes {
                None => continue,
                Some(..16) => 1.04,
                Some(16..24) => 1.02,
                Some(24..) => 1.015,
            };
            lines.extend(self.line("RSS per byte asked for", name, None, Some(limit), |board| {
                board.row(name)?.rss_per_byte(0)
            }));
        }
    }

    /// Start and stop, memory after a peak, large requests.
    fn special_workloads(&self, lines: &mut Vec<Line>) {
        let mut add = |target, name, own: usize, peer: Option<usize>, limit, metric| {
            let Some(peer) = peer else { return };
            lines.extend(self.line(target, name, Some(peer), Some(limit), |board| {
                board.row(name)?.ratio_of(own, peer, metric)
            }));
        };
        let glibc = self.board.column(GLIBC);
        add(
            "time of a program that only starts and stops",
            "start-stop",
            0,
            glibc,
            1.03,
            Metric::Time,
        );
        add(
            "RSS of a program that only starts and stops",
            "start-stop",
            0,
            glibc,
            1.03,
            Metric::PeakRss,
        );
        for name in ["peak-shrink", "peak-free"] {
            let best = self
                .board
                .row(name)
                .and_then(|row| smallest(self.board, |peer| row.figure(peer, Metric::EndShare)));
            add(
                "end RSS / peak RSS, against the lowest of all peers",
                name,
                0,
                best,
                1.0,
                Metric::EndShare,
            );
        }
        let target = "large requests, against the large allocator alone";
        add(target, "large-only", 0, glibc, 1.01, Metric::Time);
        if let Some(own) = self.board.column(OURS_OVER_MIMALLOC) {
            add(target, "large-only", own, self.board.column(MIMALLOC), 1.01, Metric::Time);
        }
    }

    /// Real programs over mimalloc, against mimalloc alone.
    fn programs(&self, lines: &mut Vec<Line>) {
        let columns = self.board.column(OURS_OVER_MIMALLOC).zip(self.board.column(MIMALLOC));
        let Some((own, peer)) = columns else { return };
        lines.extend(self.line(
            "mean time of real programs over mimalloc, against mimalloc alone",
            "",
            Some(peer),
            Some(1.0),
            |board| {
                let is_program = |row: &Row| row.workload.theme == Theme::Programs;
                mean(board, own, peer, Metric::Time, is_program)
            },
        ));
    }

    /// How flat the series are; there is no limit for that.
    fn series(&self, lines: &mut Vec<Line>) {
        for (target, theme, metric) in [
            (
                "processor time a pair, dearest number of threads / cheapest",
                Theme::Scaling,
                Metric::CpuTime,
            ),
            ("time a pair, dearest heap size / cheapest", Theme::Live, Metric::Time),
        ] {
            lines.extend(self.line(target, "", None, None, |board| {
                let rows = board.rows.iter().filter(|row| row.workload.theme == theme);
                let figures: Vec<f64> = rows.filter_map(|row| row.figure(0, metric)).collect();
                let low = figures.iter().copied().min_by(f64::total_cmp)?;
                let high = figures.iter().copied().max_by(f64::total_cmp)?;
                (figures.len() > 1 && low > 0.0).then(|| high / low)
            }));
        }
    }

    /// Speed of each workload of small requests, against the peer that is fastest there.
    fn each_workload(&self, lines: &mut Vec<Line>) {
        for row in self.board.rows.iter().filter(|row| row.is_small()) {
            let name = row.workload.name;
            let fastest = smallest(self.board, |peer| row.figure(peer, Metric::Time));
            let Some(fastest) = fastest else { continue };
            lines.extend(self.line(EACH_TIME, name, Some(fastest), Some(1.0), |board| {
                board.row(name)?.ratio_of(0, fastest, Metric::Time)
            }));
        }
    }
}

/// Of each workload.
pub const EACH_TIME: &str = "time, against the fastest peer of the workload";
/// Of each workload.
pub const PEAK_RSS: &str = "peak RSS, against the peer of the memory overhead";

#[cfg(test)]
mod tests {
    use super::{EACH_TIME, Line, PEAK_RSS, Targets, Verdict};
    use crate::arguments::Mode;
    use crate::board::{Board, Row};
    use peers::allocators;
    use peers::catalog;
    use peers::sample::Sample;

    const MIB: u64 = 1 << 20;

    /// A row of the small set with these (nanoseconds, peak RSS in MiB), 10 MiB live.
    fn row(workload: &str, cells: &[(u64, u64)]) -> Row {
        let cell = |&(nanos, mebibytes): &(u64, u64)| {
            Some(Sample {
                nanos,
                user_nanos: nanos,
                operations: 1,
                start_rss: 2 * MIB,
                peak_rss: mebibytes * MIB,
                end_rss: mebibytes * MIB / 2,
                live_bytes: 10 * MIB,
                ..Sample::default()
            })
        };
        Row {
            workload: catalog::find(workload).expect(workload),
            small_share: Some(1.0),
            small_byte_share: Some(1.0),
            counted_live_bytes: Some(10 * MIB),
            cells: cells.iter().map(cell).collect(),
            overheads: Vec::new(),
        }
    }

    fn board(rows: Vec<Row>) -> Board {
        let names = ["pymalloc", "py+mi3", "glibc", "mimalloc3", "stoolap"];
        let allocators = names.map(|name| allocators::find(name).expect(name)).to_vec();
        let mut board = Board { mode: Mode::Lto, allocators, rows, rounds: 1 };
        board.find_overheads();
        board
    }

    fn find<'a>(targets: &'a Targets, target: &str, workload: &str) -> &'a Line {
        let mut lines = targets.lines.iter();
        lines
            .find(|line| line.target.starts_with(target) && line.workload == workload)
            .unwrap_or_else(|| panic!("no {target} {workload}"))
    }

    fn close(one: f64, other: f64) -> bool {
        (one - other).abs() < 1e-9
    }

    #[test]
    fn a_verdict_needs_every_round_or_says_that_it_is_noise() {
        let line = |figure, low, high, limit| {
            let (workload, peer) = (String::new(), String::new());
            Line { target: "", workload, peer, figure, range: (low, high), limit }.verdict()
        };
        assert_eq!(line(0.9, 0.8, 1.0, Some(1.0)), Verdict::Met);
        assert_eq!(line(0.9, 0.8, 1.1, Some(1.0)), Verdict::MetWithinNoise);
        assert_eq!(line(1.1, 0.9, 1.2, Some(1.0)), Verdict::MissedWithinNoise);
        assert_eq!(line(1.1, 1.05, 1.2, Some(1.0)), Verdict::Missed);
        assert_eq!(line(9.9, 9.0, 10.0, None), Verdict::NoLimit);
    }

    #[test]
    fn means_go_against_the_best_single_peer_and_workloads_against_their_own() {
        // By the mean, stoolap is best (300 * 50 < 200 * 80), although mimalloc3 is fastest at one of the two.
        let lifo = row("lifo-10k", &[(100, 20), (1, 1), (400, 20), (200, 20), (300, 20)]);
        let lists = row("linked-lists", &[(100, 20), (1, 1), (400, 20), (80, 20), (50, 20)]);
        let targets = Targets::new(&board(vec![lifo, lists]), &[]);
        let best = find(&targets, "mean time, small set", "");
        assert_eq!(best.peer, "stoolap");
        assert!(close(best.figure, (100.0_f64 * 100.0 / (300.0 * 50.0)).sqrt()), "{best:?}");
        let lists = find(&targets, EACH_TIME, "linked-lists");
        assert_eq!((lists.peer.as_str(), lists.verdict()), ("stoolap", Verdict::Missed));
        assert!(close(lists.beyond_percent().expect("it has a limit"), 100.0));
        let lifo = find(&targets, EACH_TIME, "lifo-10k");
        assert_eq!((lifo.peer.as_str(), lifo.verdict()), ("mimalloc3", Verdict::Met));
        assert!(close(lifo.figure, 0.5));
    }

    #[test]
    fn overhead_is_compared_with_the_smallest_peer_that_is_not_slower_than_glibc() {
        // Start-up takes 4 MiB with ours and stoolap, 8 with mimalloc; 10 MiB are live.
        let start = row("start-stop", &[(100, 4), (100, 4), (100, 4), (100, 8), (100, 4)]);
        // Left over: 2 MiB; 1; 8; 3; and 1 with stoolap, which is slower than glibc.
        let lifo = row("lifo-10k", &[(100, 16), (1, 15), (200, 22), (200, 21), (900, 15)]);
        let targets = Targets::new(&board(vec![start, lifo]), &[]);
        let line = find(&targets, "mean memory overhead", "");
        assert_eq!(line.peer, "mimalloc3");
        assert!(close(line.figure, 2.0 / 3.0), "{line:?}");
        assert_eq!(line.verdict(), Verdict::Missed);
        let peak = find(&targets, PEAK_RSS, "lifo-10k");
        assert!(close(peak.figure, 16.0 / 21.0));
        let start = find(&targets, "RSS of a program that only", "start-stop");
        assert_eq!((start.peer.as_str(), start.verdict()), ("glibc", Verdict::Met));
    }

    #[test]
    fn without_a_start_up_figure_there_is_no_overhead() {
        let lifo = row("lifo-10k", &[(100, 16), (1, 15), (200, 22), (200, 21), (900, 15)]);
        let targets = Targets::new(&board(vec![lifo]), &[]);
        assert!(targets.lines.iter().all(|line| !line.target.contains("overhead, small set")));
    }

    #[test]
    fn density_takes_the_start_off_and_has_a_limit_by_size() {
        let cells = [(1, 25), (1, 25), (1, 25), (1, 25), (1, 25)];
        let rows = ["density-8", "density-16", "density-24", "density-mixed"];
        let targets = Targets::new(&board(rows.map(|name| row(name, &cells)).into()), &[]);
        let limit = |name| {
            let line = find(&targets, "RSS per byte", name);
            // 12.5 MiB at the end, 2 before, 10 asked for.
            assert!(close(line.figure, 1.05), "{line:?}");
            line.limit
        };
        assert_eq!(
            rows[..3].iter().copied().map(limit).collect::<Vec<_>>(),
            [Some(1.04), Some(1.02), Some(1.015)]
        );
        let is_wanted =
            |line: &Line| line.workload == "density-mixed" && line.target.starts_with("RSS per");
        assert!(!targets.lines.iter().any(is_wanted));
    }

    #[test]
    fn each_half_of_ours_is_compared_with_its_own_large_allocator() {
        let large = row("large-only", &[(101, 9), (99, 9), (100, 9), (90, 9), (50, 9)]);
        let json = row("json", &[(1, 9), (70, 9), (1, 9), (100, 9), (1, 9)]);
        let targets = Targets::new(&board(vec![large, json]), &[]);
        let large: Vec<_> =
            targets.lines.iter().filter(|line| line.target.starts_with("large requests")).collect();
        assert_eq!([&large[0].peer, &large[1].peer], ["glibc", "mimalloc3"]);
        assert_eq!([large[0].verdict(), large[1].verdict()], [Verdict::Met, Verdict::Missed]);
        assert!(close(large[1].figure, 1.1));
        assert!(close(find(&targets, "mean time of real programs", "").figure, 0.7));
    }

    #[test]
    fn the_range_is_that_of_single_rounds() {
        let round =
            |ours| board(vec![row("lifo-10k", &[(ours, 9), (1, 9), (100, 9), (100, 9), (100, 9)])]);
        let targets = Targets::new(&round(101), &[round(95), round(101), round(120)]);
        let line = find(&targets, EACH_TIME, "lifo-10k");
        assert!(close(line.range.0, 0.95) && close(line.range.1, 1.2), "{line:?}");
        assert_eq!(line.verdict(), Verdict::MissedWithinNoise);
    }

    #[test]
    fn a_series_is_as_flat_as_its_extremes() {
        let cells = |ours| [(ours, 9), (1, 9), (1, 9), (1, 9), (1, 9)];
        let rows = vec![
            row("live-1m", &cells(50)),
            row("live-4m", &cells(40)),
            row("live-16m", &cells(100)),
        ];
        let line = Targets::new(&board(rows), &[]);
        let line = find(&line, "time a pair", "");
        assert!(close(line.figure, 2.5));
        assert_eq!(line.verdict(), Verdict::NoLimit);
    }
}
