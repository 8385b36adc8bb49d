//! The report as files: every run, every median.

use crate::arguments::Options;
use crate::board::{Board, Metric};
use crate::run::Runs;
use peers::sample::Sample;
use std::fmt::Write as _;
use std::{fs, io};

/// Writes `runs.csv` and `medians.csv`, and the tables as `table.txt`.
pub fn write(options: &Options, runs: &Runs, boards: &[Board]) -> io::Result<()> {
    fs::write(options.out.join("runs.csv"), runs_csv(options, runs))?;
    fs::write(options.out.join("medians.csv"), medians_csv(boards))?;
    let tables: String = boards.iter().map(crate::table::render).collect();
    fs::write(options.out.join("table.txt"), tables)
}

fn values(sample: &Sample) -> String {
    sample.values().iter().map(|value| format!(",{value}")).collect()
}

fn runs_csv(options: &Options, runs: &Runs) -> String {
    let mut text = format!("scale,mode,workload,allocator,round,{}\n", Sample::FIELDS.join(","));
    let scale = options.scale.name();
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
        "mode,theme,workload,small_share,allocator,time_ratio,peak_rss_ratio,end_rss_ratio,rss_per_byte,{}\n",
        Sample::FIELDS.join(",")
    );
    // An unknown figure is an empty field.
    let field = |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.4}"));
    for board in boards {
        for row in &board.rows {
            for (column, allocator) in board.allocators.iter().enumerate() {
                let Some(sample) = &row.cells[column] else { continue };
                let ratios = [Metric::Time, Metric::PeakRss, Metric::EndRss]
                    .map(|metric| field(row.ratio(column, metric)))
                    .join(",");
                writeln!(
                    text,
                    "{},{},{},{},{},{ratios},{}{}",
                    board.mode.profile(),
                    row.workload.theme.name(),
                    row.workload.name,
                    field(row.small_share),
                    allocator.name,
                    field(row.rss_per_byte(column)),
                    values(sample),
                )
                .expect("a string grows");
            }
        }
    }
    text
}
