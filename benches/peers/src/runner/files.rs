//! The report as files: every run, every median.

use crate::arguments::Options;
use crate::board::{Board, Metric};
use crate::run::Runs;
use crate::targets::Targets;
use peers::allocators::COUNTING;
use peers::sample::Sample;
use std::fmt::Write as _;
use std::{fs, io};

/// Writes `runs.csv`, `medians.csv` and `targets.csv`, and the tables as `table.txt`.
pub fn write(
    options: &Options,
    runs: &Runs,
    boards: &[Board],
    targets: &[Targets],
) -> io::Result<()> {
    fs::write(options.out.join("runs.csv"), runs_csv(options, runs))?;
    fs::write(options.out.join("medians.csv"), medians_csv(boards))?;
    fs::write(options.out.join("targets.csv"), targets_csv(targets))?;
    fs::write(options.out.join("table.txt"), crate::table::render_all(boards, targets))
}

fn values(sample: &Sample) -> String {
    sample.values().iter().map(|value| format!(",{value}")).collect()
}

/// All runs; the counting worker's are those of round 1.
pub fn runs_csv(options: &Options, runs: &Runs) -> String {
    let mut text = format!("scale,mode,workload,allocator,round,{}\n", Sample::FIELDS.join(","));
    let scale = options.scale.name();
    let mode = options.modes[0].profile();
    for (workload, sample) in &runs.counted {
        let values = values(sample);
        writeln!(text, "{scale},{mode},{workload},{},1{values}", COUNTING.name)
            .expect("a string grows");
    }
    for run in &runs.done {
        let (mode, workload, allocator) =
            (run.mode.profile(), run.workload.name, run.allocator.name);
        let (round, values) = (run.round + 1, values(&run.sample));
        writeln!(text, "{scale},{mode},{workload},{allocator},{round}{values}")
            .expect("a string grows");
    }
    text
}

fn medians_csv(boards: &[Board]) -> String {
    let mut text = format!(
        "mode,theme,workload,small_share,small_byte_share,allocator,time_ratio,peak_rss_ratio,end_rss_ratio,\
         overhead_ratio,rss_per_byte,peak_live_bytes,overhead_bytes,{}\n",
        Sample::FIELDS.join(",")
    );
    // An unknown figure is an empty field.
    let field = |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.4}"));
    for board in boards {
        for row in &board.rows {
            for (column, allocator) in board.allocators.iter().enumerate() {
                let Some(sample) = &row.cells[column] else { continue };
                let ratios = [Metric::Time, Metric::PeakRss, Metric::EndRss, Metric::Overhead]
                    .map(|metric| field(row.ratio(column, metric)))
                    .join(",");
                writeln!(
                    text,
                    "{},{},{},{},{},{},{ratios},{},{},{}{}",
                    board.mode.profile(),
                    row.workload.theme.name(),
                    row.workload.name,
                    field(row.small_share),
                    field(row.small_byte_share),
                    allocator.name,
                    field(row.rss_per_byte(column)),
                    row.counted_live_bytes.map_or_else(String::new, |bytes| bytes.to_string()),
                    row.overheads[column].map_or_else(String::new, |bytes| bytes.to_string()),
                    values(sample),
                )
                .expect("a string grows");
            }
        }
    }
    text
}

const TARGET_COLUMNS: [&str; 9] = [
    "mode",
    "target",
    "workload",
    "peer",
    "figure",
    "lowest_round",
    "highest_round",
    "limit",
    "verdict",
];

fn targets_csv(targets: &[Targets]) -> String {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(TARGET_COLUMNS).expect("memory takes it");
    for targets in targets {
        for line in &targets.lines {
            let (low, high) = line.range;
            let [figure, low, high] = [line.figure, low, high].map(|figure| format!("{figure:.4}"));
            let limit = line.limit.map_or_else(String::new, |limit| format!("{limit:.4}"));
            let verdict = line.verdict().name();
            let mode = targets.mode.profile();
            let cells: [&str; TARGET_COLUMNS.len()] = [
                mode,
                line.target,
                &line.workload,
                &line.peer,
                &figure,
                &low,
                &high,
                &limit,
                verdict,
            ];
            writer.write_record(cells).expect("memory takes it");
        }
    }
    let bytes = writer.into_inner().expect("memory takes it");
    String::from_utf8(bytes).expect("names are UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arguments::Mode;
    use crate::targets::Line;

    #[test]
    fn names_with_commas_stay_one_column() {
        let line = |target, limit| Line {
            target,
            workload: "fifo-10k".to_owned(),
            peer: "glibc".to_owned(),
            figure: 0.75,
            range: (0.5, 1.0),
            limit,
        };
        let lines = vec![line("time, against the fastest", Some(1.0)), line("time", None)];
        let text = targets_csv(&[Targets { mode: Mode::Lto, lines }]);
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        assert_eq!(reader.headers().expect("it has some"), &TARGET_COLUMNS[..]);
        let rows: Vec<_> = reader.records().map(|row| row.expect("nine columns")).collect();
        assert_eq!(rows.len(), 2);
        assert_eq!(&rows[0][1], "time, against the fastest");
        assert_eq!(&rows[0][7], "1.0000");
        assert_eq!((&rows[1][4], &rows[1][7]), ("0.7500", ""));
    }
}
