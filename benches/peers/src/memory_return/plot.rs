//! Draws resident memory over time, one curve per allocator.

use crate::watch::Run;
use peers::patterns::Pattern;
use plotters::prelude::*;
use std::error::Error;
use std::path::Path;

const SIZE: (u32, u32) = (860, 320);
/// Points of a curve: about one per two and a half pixels, so that the file stays small.
const POINTS_MAX: usize = 320;
const COLOURS: [RGBColor; 4] =
    [RGBColor(200, 30, 30), RGBColor(120, 120, 120), RGBColor(30, 100, 200), RGBColor(30, 150, 60)];

/// Draws the runs of a pattern.
pub fn draw(path: &Path, pattern: &Pattern, runs: &[&Run]) -> Result<(), Box<dyn Error>> {
    let points = || runs.iter().flat_map(|run| &run.samples);
    let (Some(end), Some(peak)) =
        (points().map(|point| point.0).max(), points().map(|point| point.1).max())
    else {
        return Ok(());
    };
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(pattern.about, ("sans-serif", 14))
        .margin(8)
        .x_label_area_size(32)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..end as f64 / 1e3, 0.0..peak as f64 / 1024.0 * 1.05)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(RGBColor(220, 220, 220))
        .x_labels(8)
        .y_labels(6)
        .x_desc("s")
        .y_desc("MiB resident")
        .draw()?;
    for (run, colour) in runs.iter().zip(COLOURS).rev() {
        let style = colour.stroke_width(if run.allocator.is_ours() { 2 } else { 1 });
        chart
            .draw_series(LineSeries::new(thinned(&run.samples), style))?
            .label(run.allocator.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], style));
    }
    chart
        .configure_series_labels()
        .background_style(WHITE.mix(0.8))
        .position(SeriesLabelPosition::UpperRight)
        .draw()?;
    area.present()?;
    Ok(())
}

/// The highest points among neighbours, in seconds and MiB.
fn thinned(samples: &[(u64, u64)]) -> impl Iterator<Item = (f64, f64)> + '_ {
    let together = samples.len().div_ceil(POINTS_MAX).max(1);
    samples.chunks(together).filter_map(|some| {
        let highest = some.iter().max_by_key(|sample| sample.1)?;
        Some((highest.0 as f64 / 1e3, highest.1 as f64 / 1024.0))
    })
}
