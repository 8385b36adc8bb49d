//! The tables on the terminal.

use crate::board::{Board, Metric, Row};
use crate::targets::{EACH_TIME, Line, PEAK_RSS, Targets, Verdict};
use peers::catalog::Theme;
use std::fmt::Write as _;

const NAME_WIDTH: usize = 22;
const WIDTH: usize = 10;

/// All tables of all build modes, each with its targets.
pub fn render_all(boards: &[Board], targets: &[Targets]) -> String {
    let both = boards.iter().zip(targets);
    both.map(|(board, targets)| render(board) + &render_targets(targets)).collect()
}

/// The targets: each one over many workloads; of those per workload, only the missed ones.
fn render_targets(targets: &Targets) -> String {
    let mut text = String::new();
    if targets.lines.is_empty() {
        return text;
    }
    heading(
        &mut text,
        &format!(
            "Targets, {} build (~: single rounds, whose lowest and highest figures are in brackets, say both)",
            targets.mode.profile(),
        ),
    );
    let is_of_each = |line: &&Line| [EACH_TIME, PEAK_RSS].contains(&line.target);
    for line in targets.lines.iter().filter(|line| !is_of_each(line)) {
        target(&mut text, line);
    }
    for target_of_each in [EACH_TIME, PEAK_RSS] {
        let mut lines: Vec<&Line> =
            targets.lines.iter().filter(|line| line.target == target_of_each).collect();
        if lines.is_empty() {
            continue;
        }
        lines.sort_by(|one, other| other.figure.total_cmp(&one.figure));
        let count =
            |verdict| lines.iter().filter(|line| line.verdict() == verdict).count().to_string();
        let counts =
            [Verdict::Met, Verdict::MetWithinNoise, Verdict::MissedWithinNoise, Verdict::Missed]
                .map(|verdict| format!("{} {}", count(verdict), verdict.name()))
                .join(", ");
        writeln!(text, "\n{target_of_each}: {counts} of {}", lines.len()).expect("a string grows");
        for line in lines.into_iter().filter(|line| line.verdict().is_missed()) {
            target(&mut text, line);
        }
    }
    text += "\nNot measured here: memory that is back after the last free of a peak without a further call \
             (tests/memory_return.rs, tests/sleeping_thread.rs)\n";
    text
}

fn target(text: &mut String, line: &Line) {
    let limit = line.limit.map_or_else(String::new, |limit| format!("<= {limit:.3}"));
    let beyond = line.beyond_percent().map_or_else(String::new, |by| format!("{by:+.1} %"));
    let range = format!("[{:.3}, {:.3}]", line.range.0, line.range.1);
    let mut what = if [EACH_TIME, PEAK_RSS].contains(&line.target) {
        line.workload.clone()
    } else {
        line.target.to_owned()
    };
    if !line.workload.is_empty() && what != line.workload {
        what += &format!(": {}", line.workload);
    }
    if !line.peer.is_empty() {
        what += &format!(" ({})", line.peer);
    }
    writeln!(
        text,
        "{:8}{:>8.3} {range:18}{limit:9}{beyond:>9}  {what}",
        line.verdict().name(),
        line.figure
    )
    .expect("a string grows");
}

/// All tables of one build mode.
fn render(board: &Board) -> String {
    if board.rows.is_empty() {
        return String::new();
    }
    let mut text = String::new();
    time(board, &mut text);
    requests(board, &mut text);
    memory(board, &mut text);
    overhead(board, &mut text);
    density(board, &mut text);
    text
}

fn line(text: &mut String, name: &str, cells: impl IntoIterator<Item = String>) {
    write!(text, "{name:NAME_WIDTH$}").expect("a string grows");
    for cell in cells {
        write!(text, "{cell:>WIDTH$}").expect("a string grows");
    }
    text.push('\n');
}

fn heading(text: &mut String, title: &str) {
    write!(text, "\n{title}\n\n").expect("a string grows");
}

/// `None` is a run that failed.
fn ratio(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"))
}

fn names(board: &Board, first: usize) -> impl Iterator<Item = String> {
    board.allocators[first..].iter().map(|allocator| allocator.name.to_owned())
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / f64::from(1 << 20))
}

fn peers(board: &Board) -> std::ops::Range<usize> {
    1..board.allocators.len()
}

fn time(board: &Board, text: &mut String) {
    let title = format!(
        "Time, {} build, medians of {} runs: ns/op of pymalloc; the others as multiples of it (above 1: slower)",
        board.mode.profile(),
        board.rounds,
    );
    heading(text, &title);
    let columns = ["small", "ns/op"].map(str::to_owned);
    line(text, "workload", columns.into_iter().chain(names(board, 1)));
    for row in &board.rows {
        let small = row.small_share.map_or_else(
            || "?".to_owned(),
            |share| {
                // Rounded down: 100 % means every one.
                format!("{:.1} %", (share * 1_000.0).floor() / 10.0)
            },
        );
        let base = row.figure(0, Metric::Time);
        let base = base.map_or_else(|| "-".to_owned(), |nanos| format!("{nanos:.1}"));
        let ratios = peers(board).map(|column| ratio(row.ratio(column, Metric::Time)));
        line(text, row.workload.name, [small, base].into_iter().chain(ratios));
    }
    text.push('\n');
    means(board, text, Metric::Time, "all", Row::is_single);
    means(board, text, Metric::Time, "small set", Row::is_in_small_set);
    for theme in Theme::OF_SINGLES.into_iter().chain([Theme::Scaling, Theme::Live]) {
        means(board, text, Metric::Time, theme.name(), |row| row.workload.theme == theme);
    }
    let slower = |column: usize| {
        let rows = board.rows.iter().filter(|row| row.is_single());
        let is_slower =
            |row: &&Row| row.ratio(column, Metric::Time).is_some_and(|ratio| ratio > 1.0);
        rows.filter(is_slower).count().to_string()
    };
    let blank = ["", ""].map(str::to_owned);
    line(text, "slower than pymalloc", blank.into_iter().chain(peers(board).map(slower)));
}

fn means(
    board: &Board,
    text: &mut String,
    metric: Metric,
    name: &str,
    include: impl Fn(&Row) -> bool,
) {
    let has_figure = |row: &&Row| include(row) && row.figure(0, metric).is_some();
    let count = board.rows.iter().filter(has_figure).count();
    if count == 0 {
        return;
    }
    let mean = |column| ratio(board.mean_ratio(column, metric, &include).map(|(mean, _)| mean));
    let head = ["geomean".to_owned(), format!("of {count}")];
    line(text, name, head.into_iter().chain(peers(board).map(mean)));
}

fn memory(board: &Board, text: &mut String) {
    heading(
        text,
        "Peak RSS: MiB of pymalloc; the others as multiples of it (above 1: more memory)",
    );
    line(text, "workload", ["asked", "MiB"].map(str::to_owned).into_iter().chain(names(board, 1)));
    for row in &board.rows {
        let asked = row.counted_live_bytes.map_or_else(|| "?".to_owned(), mebibytes);
        let base =
            row.cells[0].as_ref().map_or_else(|| "-".to_owned(), |cell| mebibytes(cell.peak_rss));
        let ratios = peers(board).map(|column| ratio(row.ratio(column, Metric::PeakRss)));
        line(text, row.workload.name, [asked, base].into_iter().chain(ratios));
    }
    text.push('\n');
    means(board, text, Metric::PeakRss, "peak RSS, all", Row::is_single);
    means(board, text, Metric::PeakRss, "peak RSS, small set", Row::is_in_small_set);
    means(board, text, Metric::EndRss, "end RSS, all", Row::is_single);
    let faults = |column: usize| {
        let rows = board.rows.iter().filter(|row| row.is_single());
        // Only workloads that both finished: otherwise the sums could not be compared.
        let pairs = rows.filter_map(|row| Some((row.cells[column]?, row.cells[0]?)));
        let sums = pairs
            .fold((0, 0), |(own, base), (cell, first)| (own + cell.faults, base + first.faults));
        ratio((sums.1 > 0).then(|| sums.0 as f64 / sums.1 as f64))
    };
    let total = board.rows.iter().filter(|row| row.is_single());
    let total: u64 = total.filter_map(|row| row.cells[0]).map(|cell| cell.faults).sum();
    let head = ["sum".to_owned(), total.to_string()];
    line(text, "page faults", head.into_iter().chain(peers(board).map(faults)));
}

/// How much of what a program asks for is not small. The other workloads say their sizes themselves.
fn requests(board: &Board, text: &mut String) {
    let rows = board.rows.iter().filter(|row| row.workload.theme == Theme::Programs);
    let above = |small: f64| format!("{:.1} %", (1.0 - small) * 100.0);
    let shares = |row: &Row| Some([row.small_share?, row.small_byte_share?].map(above));
    let counted: Vec<_> = rows.filter_map(|row| Some((row.workload.name, shares(row)?))).collect();
    if counted.is_empty() {
        return;
    }
    heading(
        text,
        "Requests above 512 bytes: their share of all requests, and of the bytes asked for",
    );
    line(text, "workload", ["requests", "bytes"].map(str::to_owned));
    for (name, shares) in counted {
        line(text, name, shares);
    }
}

fn density(board: &Board, text: &mut String) {
    let rows = |theme| board.rows.iter().filter(move |row| row.workload.theme == theme);
    let (peaks, fills): (Vec<&Row>, Vec<&Row>) =
        rows(Theme::Memory).partition(|row| row.workload.name.starts_with("peak-"));
    let all = 0..board.allocators.len();
    if !fills.is_empty() {
        heading(text, "RSS per byte asked for, heap full, start-up RSS taken off");
        line(text, "workload", names(board, 0));
        for row in fills {
            // The limits are given in thousandths.
            let cells = all.clone().map(|column| {
                let figure = row.rss_per_byte(column);
                figure.map_or_else(|| "-".to_owned(), |figure| format!("{figure:.3}"))
            });
            line(text, row.workload.name, cells);
        }
    }
    if !peaks.is_empty() {
        heading(text, "RSS at the end, after almost everything was freed, as a share of peak RSS");
        line(text, "workload", names(board, 0));
        for row in peaks {
            let shares = all.clone().map(|column| ratio(row.figure(column, Metric::EndShare)));
            line(text, row.workload.name, shares);
        }
    }
}

/// Both means are shown, because most workloads allocate so little that their overhead is noise.
fn overhead(board: &Board, text: &mut String) {
    if !board.rows.iter().any(|row| row.figure(0, Metric::Overhead).is_some()) {
        return;
    }
    heading(
        text,
        "Memory overhead (peak RSS less live bytes less start-up RSS, 0.25 MiB at least): MiB of pymalloc; \
         the others as multiples of it",
    );
    line(text, "workload", ["live", "MiB"].map(str::to_owned).into_iter().chain(names(board, 1)));
    for row in board.rows.iter().filter(|row| row.figure(0, Metric::Overhead).is_some()) {
        let live = row.counted_live_bytes.map_or_else(|| "?".to_owned(), mebibytes);
        let base = row
            .figure(0, Metric::Overhead)
            .map_or_else(|| "-".to_owned(), |bytes| format!("{:.2}", bytes / f64::from(1 << 20)));
        let ratios = peers(board).map(|column| ratio(row.ratio(column, Metric::Overhead)));
        line(text, row.workload.name, [live, base].into_iter().chain(ratios));
    }
    text.push('\n');
    means(board, text, Metric::Overhead, "overhead, all", Row::is_single);
    means(board, text, Metric::Overhead, "overhead, small set", Row::is_in_small_set);
    means(board, text, Metric::Overhead, "the same, 4 MiB live", |row| {
        row.is_in_small_set() && row.has_large_heap()
    });
}
