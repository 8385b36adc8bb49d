//! The tables on the terminal.

use crate::board::{Board, Metric, Row};
use peers::catalog::Theme;
use std::fmt::Write as _;

const NAME_WIDTH: usize = 22;
const WIDTH: usize = 10;

/// All tables of one build mode.
pub fn render(board: &Board) -> String {
    if board.rows.is_empty() {
        return String::new();
    }
    let mut text = String::new();
    time(board, &mut text);
    memory(board, &mut text);
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
        let base = row.cells[0].as_ref().map(|sample| Metric::Time.of(sample));
        let base = base.map_or_else(|| "-".to_owned(), |nanos| format!("{nanos:.1}"));
        let ratios = peers(board).map(|column| ratio(row.ratio(column, Metric::Time)));
        line(text, row.workload.name, [small, base].into_iter().chain(ratios));
    }
    text.push('\n');
    means(board, text, Metric::Time, "all", Row::is_single);
    means(board, text, Metric::Time, "small set", Row::is_in_small_set);
    for theme in [
        Theme::Loops,
        Theme::Structures,
        Theme::Memory,
        Theme::Threads,
        Theme::Programs,
        Theme::Scaling,
        Theme::Live,
    ] {
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
    let count = board.rows.iter().filter(|row| include(row)).count();
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
    let mebibytes = |bytes: u64| format!("{:.1}", bytes as f64 / f64::from(1 << 20));
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
        // Only where both came to an end, or the sums would not compare.
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

fn density(board: &Board, text: &mut String) {
    let rows = |theme| board.rows.iter().filter(move |row| row.workload.theme == theme);
    let (peaks, fills): (Vec<&Row>, Vec<&Row>) =
        rows(Theme::Memory).partition(|row| row.workload.name.starts_with("peak-"));
    let all = 0..board.allocators.len();
    if !fills.is_empty() {
        heading(text, "RSS per byte asked for, heap full");
        line(text, "workload", names(board, 0));
        for row in fills {
            let cells = all.clone().map(|column| ratio(row.rss_per_byte(column)));
            line(text, row.workload.name, cells);
        }
    }
    if !peaks.is_empty() {
        heading(text, "RSS at the end, after almost everything was freed, as a share of peak RSS");
        line(text, "workload", names(board, 0));
        for row in peaks {
            let share = |cell: &Option<_>| {
                cell.as_ref().map(|cell| Metric::EndRss.of(cell) / Metric::PeakRss.of(cell))
            };
            line(text, row.workload.name, row.cells.iter().map(|cell| ratio(share(cell))));
        }
    }
}
