//! A comparison in parts: reads the runs of earlier parts from their `runs.csv`.

use crate::arguments::{Mode, Options};
use crate::run::{Run, Runs};
use peers::allocators::{self, ALLOCATORS, COUNTING};
use peers::catalog::{self, WORKLOADS};
use peers::sample::Sample;
use std::fs;
use std::io::ErrorKind;

/// The runs of the report in `options.out`; none if there is no report yet.
///
/// # Errors
/// One line, if the file can't be read, is not from this program, or has runs of another scale.
pub fn read(options: &Options) -> Result<Runs, String> {
    let path = options.out.join("runs.csv");
    match fs::read_to_string(&path) {
        Ok(text) => parse(&text, options.scale.name())
            .map_err(|complaint| format!("cannot add to {}: {complaint}", path.display())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Runs::default()),
        Err(error) => Err(format!("cannot read {}: {error}", path.display())),
    }
}

fn parse(text: &str, scale: &str) -> Result<Runs, String> {
    let mut runs = Runs::default();
    let mut lines = text.lines();
    let heading = format!("scale,mode,workload,allocator,round,{}", Sample::FIELDS.join(","));
    if lines.next() != Some(heading.as_str()) {
        return Err("its columns are others".to_owned());
    }
    for line in lines {
        let unclear = || format!("not understood: {line:?}");
        let fields: Vec<&str> = line.split(',').collect();
        let &[of_scale, mode, workload, allocator, round, ref values @ ..] = fields.as_slice()
        else {
            return Err(unclear());
        };
        if of_scale != scale {
            return Err(format!("its runs are {of_scale}, these are {scale}"));
        }
        let values: Vec<u64> = values
            .iter()
            .map(|value| value.parse())
            .collect::<Result<_, _>>()
            .map_err(|_| unclear())?;
        if values.len() != Sample::FIELDS.len() {
            return Err(unclear());
        }
        let sample = Sample::from_values(&values);
        let workload = catalog::find(workload).ok_or_else(unclear)?;
        if allocator == COUNTING.name {
            runs.counted.insert(workload.name, sample);
            continue;
        }
        let mode = Mode::of_profile(mode).ok_or_else(unclear)?;
        let allocator = allocators::find(allocator).ok_or_else(unclear)?;
        let round: usize = round.parse().map_err(|_| unclear())?;
        let round = round.checked_sub(1).ok_or_else(unclear)?;
        runs.done.push(Run { mode, workload, allocator, round, sample });
    }
    Ok(runs)
}

/// Adds later runs. Their rounds of a workload in a build mode get the next numbers.
pub fn add(runs: &mut Runs, later: Runs) {
    let known = runs.done.len();
    for run in later.done {
        let alike = |kept: &&Run| (kept.workload.name, kept.mode) == (run.workload.name, run.mode);
        let rounds = runs.done[..known].iter().filter(alike).map(|kept| kept.round + 1).max();
        runs.done.push(Run { round: rounds.unwrap_or(0) + run.round, ..run });
    }
    runs.counted.extend(later.counted);
    runs.peer_failures.extend(later.peer_failures);
    runs.failures.extend(later.failures);
}

/// The options of a report on all these runs: all that they ran, in the usual order.
pub fn report_options(options: &Options, runs: &Runs) -> Options {
    let has = |test: &dyn Fn(&Run) -> bool| runs.done.iter().any(test);
    Options {
        modes: [Mode::Release, Mode::Lto]
            .into_iter()
            .filter(|&mode| has(&|run| run.mode == mode))
            .collect(),
        rounds: runs.done.iter().map(|run| run.round + 1).max().unwrap_or(options.rounds),
        workloads: WORKLOADS
            .iter()
            .filter(|entry| has(&|run| run.workload.name == entry.name))
            .collect(),
        allocators: ALLOCATORS
            .iter()
            .filter(|own| has(&|run| run.allocator.name == own.name))
            .collect(),
        out: options.out.clone(),
        ..*options
    }
}

#[cfg(test)]
mod tests {
    use super::{add, parse, report_options};
    use crate::arguments::{Command, Mode, parse as parse_arguments};
    use crate::files::runs_csv;
    use crate::run::{Run, Runs};
    use peers::sample::Sample;
    use peers::{allocators, catalog};

    fn runs(workload: &str, nanos: &[u64]) -> Runs {
        let workload = catalog::find(workload).expect("known");
        let allocator = allocators::find("glibc").expect("known");
        let run = |(round, &nanos): (usize, &u64)| Run {
            mode: Mode::Lto,
            workload,
            allocator,
            round,
            sample: Sample { nanos, ..Sample::default() },
        };
        let mut runs =
            Runs { done: nanos.iter().enumerate().map(run).collect(), ..Runs::default() };
        runs.counted.insert(workload.name, Sample { requests: 7, ..Sample::default() });
        runs
    }

    #[test]
    fn parts_read_back_and_their_rounds_are_counted_on() {
        let Ok(Command::Compare(options)) = parse_arguments(["--quick".to_owned()].into_iter())
        else {
            panic!("a comparison");
        };
        let text = runs_csv(&options, &runs("trees-1", &[5, 6]));
        let mut kept = parse(&text, "quick").expect("its own file");
        add(&mut kept, runs("trees-1", &[8]));
        add(&mut kept, runs("one-size", &[9]));
        let mut other_mode = runs("trees-1", &[7]);
        other_mode.done[0].mode = Mode::Release;
        add(&mut kept, other_mode);
        let seen: Vec<_> =
            kept.done.iter().map(|run| (run.workload.name, run.round, run.sample.nanos)).collect();
        assert_eq!(
            seen,
            [
                ("trees-1", 0, 5),
                ("trees-1", 1, 6),
                ("trees-1", 2, 8),
                ("one-size", 0, 9),
                ("trees-1", 0, 7)
            ]
        );
        assert_eq!(kept.counted["trees-1"].requests, 7);
        let report = report_options(&options, &kept);
        assert_eq!(
            report.workloads.iter().map(|entry| entry.name).collect::<Vec<_>>(),
            ["one-size", "trees-1"]
        );
        assert_eq!((report.rounds, report.modes.len(), report.allocators.len()), (3, 2, 1));
    }

    #[test]
    fn other_files_and_other_scales_are_refused_in_one_line() {
        let Ok(Command::Compare(options)) = parse_arguments(["--quick".to_owned()].into_iter())
        else {
            panic!("a comparison");
        };
        let text = runs_csv(&options, &runs("trees-1", &[5]));
        for (text, scale) in [
            (text.as_str(), "full"),
            ("a,b\n", "quick"),
            (&text.replace("trees-1", "bushes"), "quick"),
            (&text.replace(",5,", ",five,"), "quick"),
            (&text.replace("lto,trees-1,glibc,1", "lto,trees-1,glibc,0"), "quick"),
        ] {
            let complaint = parse(text, scale).expect_err("not to be added to");
            assert_eq!(complaint.lines().count(), 1, "{complaint}");
        }
    }
}
