//! The table, and the figures and curves as CSV.

use crate::arguments::Options;
use crate::watch::Run;
use peers::allocators::BASELINE;
use peers::patterns::{Figure, Limit, Pattern};
use std::fmt::Write as _;

/// All figures: one line each, with the limit, and whether this crate's figure meets it.
pub fn table(options: &Options, runs: &[Run]) -> String {
    let mut text = format!("{:18} {:40}", "pattern", "figure");
    for allocator in &options.allocators {
        write!(text, " {:>10}", allocator.name).expect("a string grows");
    }
    text += &format!(" {:>10}  {}\n", "at most", "target");
    for pattern in &options.patterns {
        for figure in pattern.figures {
            line(&mut text, options, runs, pattern, figure);
        }
    }
    text
}

fn line(text: &mut String, options: &Options, runs: &[Run], pattern: &Pattern, figure: &Figure) {
    let value = |allocator: &str| {
        let run = runs
            .iter()
            .find(|run| run.pattern.name == pattern.name && run.allocator.name == allocator);
        run.and_then(|run| run.figure(figure.name))
    };
    write!(text, "{:18} {:40}", pattern.name, figure.name).expect("a string grows");
    for allocator in &options.allocators {
        write!(text, " {:>10}", number(value(allocator.name))).expect("a string grows");
    }
    let limit = limit(figure.limit, &value);
    let verdict = match (value(BASELINE), limit) {
        (Some(ours), Some(limit)) if ours <= limit => "met",
        (Some(_), Some(_)) => "missed",
        (None, Some(_)) => "no figure",
        (_, None) => "",
    };
    let line = format!(" {:>10}  {verdict}", number(limit));
    *text += line.trim_end();
    text.push('\n');
}

/// The limit of the figure; `None` if it depends on peers that have no such figure.
fn limit(limit: Limit, value: &impl Fn(&str) -> Option<f64>) -> Option<f64> {
    match limit {
        Limit::Free => None,
        Limit::AtMost(most) => Some(most),
        Limit::PeersAnd(most) => {
            let least =
                ["jemalloc", "mimalloc3"].into_iter().filter_map(value).fold(most, f64::min);
            least.is_finite().then_some(least)
        }
        Limit::BesideGlibc(more) => value("glibc").map(|glibc| glibc + more),
    }
}

fn number(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(value) if value.abs() < 100.0 && value.fract() != 0.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.0}"),
    }
}

/// `pattern,allocator,figure,value`.
pub fn figures_csv(runs: &[Run]) -> String {
    let mut text = "pattern,allocator,figure,value\n".to_owned();
    for run in runs {
        for (name, value) in &run.figures {
            let (pattern, allocator) = (run.pattern.name, run.allocator.name);
            // Names may have commas.
            writeln!(text, "{pattern},{allocator},\"{name}\",{value}").expect("a string grows");
        }
    }
    text
}

/// `pattern,allocator,millis,rss_kib`.
pub fn samples_csv(runs: &[Run]) -> String {
    let mut text = "pattern,allocator,millis,rss_kib\n".to_owned();
    for run in runs {
        for (millis, kib) in &run.samples {
            writeln!(text, "{},{},{millis},{kib}", run.pattern.name, run.allocator.name)
                .expect("a string grows");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::limit;
    use peers::patterns::Limit;

    #[test]
    fn the_smaller_peer_counts_and_a_missing_one_does_not() {
        let both = |name: &str| Some(if name == "jemalloc" { 30.0 } else { 20.0 });
        assert_eq!(limit(Limit::PeersAnd(100.0), &both), Some(20.0));
        assert_eq!(limit(Limit::PeersAnd(10.0), &both), Some(10.0));
        let none = |_: &str| None;
        assert_eq!(limit(Limit::PeersAnd(f64::INFINITY), &none), None);
        assert_eq!(limit(Limit::BesideGlibc(2.0), &both), Some(22.0));
        assert_eq!(limit(Limit::BesideGlibc(2.0), &none), None);
    }
}
