//! A recording for a terminal: a chart in characters, and tables.

use core::fmt;
use core::time::Duration;

use super::recording::{Moment, Recording};
use crate::trace::read::statistics::By;
use crate::trace::read::text::Bytes;

const COLUMNS: usize = 72;
const ROWS: usize = 12;
const EIGHTHS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// Rows of a table.
const TOP: usize = 10;

/// The most live bytes in each column's time. A column without a sample repeats the column before it.
fn columns(moments: &[Moment], width: usize) -> Vec<usize> {
    let end = moments.last().map_or(Duration::ZERO, |moment| moment.time).as_secs_f64();
    let mut columns = vec![None; width];
    for moment in moments {
        let place = if end > 0.0 { moment.time.as_secs_f64() / end * (width - 1) as f64 } else { 0.0 };
        if let Some(column) = columns.get_mut(place as usize) {
            *column = Some(moment.bytes_peak.max(column.unwrap_or(0)));
        }
    }
    let mut last = 0;
    let fill = |column: Option<usize>| {
        last = column.unwrap_or(last);
        last
    };
    columns.into_iter().map(fill).collect()
}

/// A time, with few digits.
pub(super) fn seconds(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match seconds {
        _ if seconds < 10.0 => format!("{seconds:.2} s"),
        _ if seconds < 600.0 => format!("{seconds:.1} s"),
        _ => format!("{} min {:02} s", time.as_secs() / 60, time.as_secs() % 60),
    }
}

impl Recording {
    fn write_chart(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = columns(&self.moments, COLUMNS);
        let most = columns.iter().copied().max().unwrap_or(0).max(1);
        for row in (0..ROWS).rev() {
            let label = match row {
                _ if row == ROWS - 1 => Bytes(most as f64).to_string(),
                _ if row == ROWS / 2 => Bytes(most as f64 * (row + 1) as f64 / ROWS as f64).to_string(),
                _ => String::new(),
            };
            let line: String = columns
                .iter()
                .map(|&bytes| {
                    let eighths = (bytes as f64 / most as f64 * (ROWS * 8) as f64).ceil() as usize;
                    EIGHTHS[eighths.saturating_sub(row * 8).min(8)]
                })
                .collect();
            writeln!(f, "{label:>9} │{}", line.trim_end())?;
        }
        let end = self.moments.last().map_or(Duration::ZERO, |moment| moment.time);
        writeln!(f, "{:>9} └{}", "0", "─".repeat(COLUMNS))?;
        let place = columns.iter().position(|&bytes| bytes == most).unwrap_or(0);
        let (marker, end) = (format!("{:place$}▲ peak", ""), seconds(end));
        writeln!(f, "{:>9}  {marker}{end:>width$}", "", width = COLUMNS.saturating_sub(place + 6))
    }

    fn write_top(&self, f: &mut fmt::Formatter<'_>, title: &str, index: usize) -> fmt::Result {
        let snapshot = self.live_at(index);
        let Some(moment) = self.moments.get(index) else { return Ok(()) };
        let (bytes, blocks) = (Bytes(snapshot.bytes() as f64), snapshot.blocks());
        writeln!(f, "\n{title}, after {}: {bytes} in {blocks} blocks", seconds(moment.time))?;
        write!(f, "{}", snapshot.statistics(By::Function).top(TOP))
    }
}

impl fmt::Display for Recording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let most = |bytes: fn(&Moment) -> usize| Bytes(self.moments.iter().map(bytes).max().unwrap_or(0) as f64);
        writeln!(f, "{}, process {}", self.program(), self.process())?;
        let cut = if self.is_cut() { "; it has no end" } else { "" };
        writeln!(f, "{} samples{cut}", self.moments.len())?;
        if let Some(bytes) = self.sampled_every() {
            writeln!(f, "estimates: one block sampled every {}", Bytes(bytes as f64))?;
        }
        if self.lost_blocks() > 0 {
            writeln!(f, "{} blocks could not be recorded", self.lost_blocks())?;
        }
        let (live, resident) = (most(|moment| moment.bytes_peak), most(|moment| moment.bytes_resident));
        let arenas = most(|moment| moment.bytes_arenas);
        writeln!(f, "at most: {live} live, {resident} resident, {arenas} in arenas\n")?;
        self.write_chart(f)?;
        self.write_top(f, "At the peak", self.peak_index())?;
        self.write_top(f, "At the end", self.moments.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_column_has_the_most_of_its_time_and_gaps_go_on_as_before() {
        let moment = |second: u64, bytes| Moment {
            time: Duration::from_secs(second),
            bytes_live: bytes,
            bytes_peak: bytes,
            bytes_resident: 0,
            bytes_arenas: 0,
            at_peak: false,
        };
        let moments = [moment(0, 5), moment(1, 9), moment(4, 2), moment(8, 3), moment(9, 1)];
        assert_eq!(columns(&moments, 10), [5, 9, 9, 9, 2, 2, 2, 2, 3, 1]);
        assert_eq!(columns(&moments[..1], 3), [5, 5, 5]);
        assert_eq!(columns(&[], 2), [0, 0]);
    }
}
