//! The report as pictures: bars for each workload, time against memory, the two series.

use crate::board::{Board, Metric, Row};
use peers::allocators::ALLOCATORS;
use peers::catalog::Theme;
use plotters::coord::Shift;
use plotters::prelude::*;
use std::error::Error;
use std::io;
use std::path::Path;

type Result<T> = std::result::Result<T, Box<dyn Error>>;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// One colour per allocator; the baseline's is red.
const COLOURS: [RGBColor; 12] = [
    RGBColor(214, 39, 40),
    RGBColor(255, 152, 150),
    RGBColor(127, 127, 127),
    RGBColor(31, 119, 180),
    RGBColor(174, 199, 232),
    RGBColor(44, 160, 44),
    RGBColor(148, 103, 189),
    RGBColor(140, 86, 75),
    RGBColor(227, 119, 194),
    RGBColor(255, 127, 14),
    RGBColor(188, 189, 34),
    RGBColor(23, 190, 207),
];

/// The colour of an allocator: the same in every plot, whichever others are in it.
fn colour(board: &Board, column: usize) -> RGBColor {
    let name = board.allocators[column].name;
    let number = ALLOCATORS.iter().position(|allocator| allocator.name == name);
    COLOURS[number.unwrap_or(0) % COLOURS.len()]
}

/// Draws all plots for which there are results.
pub fn draw(out: &Path, board: &Board) -> io::Result<()> {
    let path = |name: &str| out.join(format!("{name}-{}.svg", board.mode.profile()));
    if board.rows.is_empty() {
        return Ok(());
    }
    // A chart for each theme, so that each is readable at its size. The series have curves instead.
    Theme::OF_SINGLES
        .into_iter()
        .try_for_each(|theme| {
            bars(board, &path(&format!("time-{}", theme.name())), theme, Metric::Time, "time")?;
            bars(
                board,
                &path(&format!("peak-rss-{}", theme.name())),
                theme,
                Metric::PeakRss,
                "peak RSS",
            )
        })
        .and_then(|()| scatter(board, &path("time-against-rss")))
        .and_then(|()| series(board, &path("scaling"), &SCALING))
        .and_then(|()| series(board, &path("scaling-cost"), &SCALING_COST))
        .and_then(|()| series(board, &path("live"), &LIVE))
        .map_err(|error| io::Error::other(error.to_string()))
}

/// Draws bars of a theme from 1 outwards, on a logarithmic scale: the bars for twice and for half are equally long.
fn bars(board: &Board, path: &Path, theme: Theme, metric: Metric, what: &str) -> Result<()> {
    const BAR: i32 = 6;
    const GAP: i32 = 12;
    const LEFT: i32 = 180;
    const TOP: i32 = 60;
    const WIDTH: i32 = 1_000;
    // The scale goes from an eighth to 16 times. Longer bars are cut and labelled with their value.
    const LOW: f64 = -3.0;
    const HIGH: f64 = 4.0;
    let rows: Vec<&Row> = board
        .rows
        .iter()
        .filter(|row| row.workload.theme == theme && row.figure(0, metric).is_some())
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    let peers = board.allocators.len() as i32 - 1;
    let group = peers * BAR + GAP;
    let height = TOP + group * rows.len() as i32 + 20;
    let area = SVGBackend::new(path, (WIDTH as u32, height as u32)).into_drawing_area();
    area.fill(&WHITE)?;
    let place = |logarithm: f64| {
        let share = (logarithm.clamp(LOW, HIGH) - LOW) / (HIGH - LOW);
        LEFT + (share * f64::from(WIDTH - LEFT - 60)) as i32
    };
    for power in LOW as i32..=HIGH as i32 {
        let x = place(f64::from(power));
        let shade = if power == 0 { BLACK } else { RGBColor(210, 210, 210) };
        area.draw(&PathElement::new(vec![(x, TOP - 4), (x, height - 16)], shade))?;
        let name = if power < 0 { format!("1/{}", 1 << -power) } else { (1 << power).to_string() };
        write(&area, &name, (x - 6, TOP - 18), 12)?;
    }
    let title = format!(
        "{}: {what}, {} build, as a multiple of {}'s (right of 1: worse)",
        theme.name(),
        board.mode.profile(),
        board.allocators[0].name
    );
    write(&area, &title, (8, 6), 15)?;
    legend(&area, board, 1, (8, 26))?;
    for (number, row) in rows.into_iter().enumerate() {
        let top = TOP + number as i32 * group;
        write(&area, row.workload.name, (8, top + group / 2 - 10), 12)?;
        for column in 1..board.allocators.len() {
            let Some(ratio) = row.ratio(column, metric) else { continue };
            let y = top + (column as i32 - 1) * BAR;
            let (from, to) = (place(0.0), place(ratio.log2()));
            let corners = [(from.min(to), y), (from.max(to), y + BAR - 1)];
            area.draw(&Rectangle::new(corners, colour(board, column).filled()))?;
            if !(LOW..=HIGH).contains(&ratio.log2()) {
                write(&area, &format!("{ratio:.1}"), (to + 3, y - 3), 9)?;
            }
        }
    }
    area.present()?;
    Ok(())
}

fn write(area: &Area<'_>, text: &str, place: (i32, i32), size: i32) -> Result<()> {
    area.draw(&Text::new(text.to_owned(), place, ("sans-serif", size)))?;
    Ok(())
}

fn legend(area: &Area<'_>, board: &Board, first: usize, (x, y): (i32, i32)) -> Result<()> {
    for (column, allocator) in board.allocators.iter().enumerate().skip(first) {
        let left = x + (column - first) as i32 * 115;
        area.draw(&Rectangle::new([(left, y), (left + 9, y + 9)], colour(board, column).filled()))?;
        write(area, allocator.name, (left + 13, y), 11)?;
    }
    Ok(())
}

/// Draws the two means of each allocator: lower and further left is better.
fn scatter(board: &Board, path: &Path) -> Result<()> {
    let points: Vec<(usize, f64, f64)> = (0..board.allocators.len())
        .filter_map(|column| {
            let mean = |metric| Some(board.mean_ratio(column, metric, Row::is_single)?.0);
            Some((column, mean(Metric::PeakRss)?, mean(Metric::Time)?))
        })
        .collect();
    if points.is_empty() {
        return Ok(());
    }
    let area = SVGBackend::new(path, (800, 600)).into_drawing_area();
    area.fill(&WHITE)?;
    let range = |value: fn(&(usize, f64, f64)) -> f64| {
        let low = points.iter().map(value).fold(f64::INFINITY, f64::min);
        let high = points.iter().map(value).fold(0.0, f64::max);
        low - 0.1..high + 0.15
    };
    let title = format!("Geometric means, {} build (1: pymalloc)", board.mode.profile());
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 16))
        .margin(10)
        .x_label_area_size(36)
        .y_label_area_size(48)
        .build_cartesian_2d(range(|point| point.1), range(|point| point.2))?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_desc("peak RSS")
        .y_desc("time")
        .draw()?;
    for (column, rss, time) in points {
        let name = board.allocators[column].name;
        chart.draw_series(PointSeries::of_element(
            [(rss, time)],
            5,
            colour(board, column).filled(),
            &|point, size, style| {
                let label = Text::new(name, (8, -6), ("sans-serif", 13));
                EmptyElement::at(point) + Circle::new((0, 0), size, style) + label
            },
        ))?;
    }
    area.present()?;
    Ok(())
}

/// A series of workloads that differ in one number.
struct Series {
    theme: Theme,
    title: &'static str,
    x_title: &'static str,
    y_title: &'static str,
    x: fn(&str) -> Option<f64>,
    metric: Metric,
    y: fn(f64) -> f64,
}

const SCALING: Series = Series {
    theme: Theme::Scaling,
    title: "Random replacement by more and more threads",
    x_title: "threads",
    y_title: "million pairs a second",
    x: |name| name.strip_prefix("scaling-")?.parse().ok(),
    metric: Metric::Time,
    y: |nanos| 1_000.0 / nanos,
};

/// This curve is flat if no thread waits for another, whatever the number of cores.
const SCALING_COST: Series = Series {
    title: "Processor time of a random replacement by more and more threads",
    y_title: "ns of processor time a pair",
    metric: Metric::CpuTime,
    y: |nanos| nanos,
    ..SCALING
};

const LIVE: Series = Series {
    theme: Theme::Live,
    title: "Random replacement in a larger and larger heap",
    x_title: "MiB live",
    y_title: "ns a pair",
    x: |name| {
        let size = name.strip_prefix("live-")?;
        match size.strip_suffix('g') {
            Some(gibibytes) => gibibytes.parse::<f64>().ok().map(|number| number * 1_024.0),
            None => size.strip_suffix('m')?.parse().ok(),
        }
    },
    metric: Metric::Time,
    y: |nanos| nanos,
};

fn series(board: &Board, path: &Path, series: &Series) -> Result<()> {
    let rows: Vec<(f64, &Row)> = board
        .rows
        .iter()
        .filter(|row| row.workload.theme == series.theme)
        .filter_map(|row| Some(((series.x)(row.workload.name)?, row)))
        .collect();
    let line = |column: usize| -> Vec<(f64, f64)> {
        let y = |row: &Row| Some((series.y)(row.figure(column, series.metric)?));
        rows.iter().filter_map(|&(x, row)| Some((x, y(row)?))).collect()
    };
    let lines: Vec<_> = (0..board.allocators.len()).map(line).collect();
    let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return Ok(()) };
    let top = lines.iter().flatten().map(|point| point.1).fold(0.0, f64::max) * 1.1;
    let area = SVGBackend::new(path, (1_000, 600)).into_drawing_area();
    area.fill(&WHITE)?;
    legend(&area, board, 0, (20, 582))?;
    let mut chart = ChartBuilder::on(&area)
        .caption(format!("{}, {} build", series.title, board.mode.profile()), ("sans-serif", 16))
        .margin(10)
        .margin_bottom(30)
        .x_label_area_size(36)
        .y_label_area_size(56)
        .build_cartesian_2d((first.0..last.0 * 1.05).log_scale().base(2.0), 0.0..top)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(RGBColor(210, 210, 210))
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| format!("{y:.0}"))
        .x_desc(series.x_title)
        .y_desc(series.y_title)
        .draw()?;
    for (column, points) in lines.into_iter().enumerate() {
        let style = colour(board, column).stroke_width(if column == 0 { 3 } else { 1 });
        chart.draw_series(LineSeries::new(points, style).point_size(3))?;
    }
    area.present()?;
    Ok(())
}
