//! Counts instructions, row by row, and compares them with the committed baseline.
//!
//! Exit code 0: all rows are as in the baseline; 1: a row is not, or could not be counted; 2: a bad command line.

mod baseline;
mod callgrind;

use baseline::{Baseline, Verdict};
use callgrind::Programs;
use instructions::{ROWS, Row};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::{env, fs};

const USAGE: &str = "usage: instructions [--renew | ROW...]";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let (renew, rows) = match choose(&arguments) {
        Ok(choice) => choice,
        Err(complaint) => {
            eprintln!("{complaint}");
            return ExitCode::from(2);
        }
    };
    match if renew { write_baseline() } else { compare(&rows) } {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(complaint) => {
            eprintln!("instructions: {complaint}");
            ExitCode::FAILURE
        }
    }
}

/// Whether to write the baseline anew, and which rows to count.
fn choose(arguments: &[String]) -> Result<(bool, Vec<&'static Row>), String> {
    match arguments {
        [] => Ok((false, ROWS.iter().collect())),
        [only] if only == "--renew" => Ok((true, Vec::new())),
        names => {
            let row = |name: &String| instructions::find(name).ok_or(format!("no row is called {name:?}; {USAGE}"));
            Ok((false, names.iter().map(row).collect::<Result<_, _>>()?))
        }
    }
}

fn baseline_file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("baseline.txt")
}

/// The compiler and its target, as `rustc` reports them.
fn compiler_and_target() -> Result<(String, String), String> {
    let output = Command::new("rustc").arg("-vV").output().map_err(|error| format!("rustc does not start: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let target = text.lines().find_map(|line| line.strip_prefix("host: "));
    let both = text.lines().next().zip(target).ok_or("rustc does not say its version")?;
    Ok((both.0.to_owned(), both.1.to_owned()))
}

fn write_baseline() -> Result<bool, String> {
    let (compiler, target) = compiler_and_target()?;
    let programs = Programs::build()?;
    let mut counts = BTreeMap::new();
    for row in ROWS {
        let count = programs.count(row).map_err(|reason| format!("{}: {reason}", row.name))?;
        println!("{:20} {:>12.2}", row.name, count.instructions as f64 / count.operations as f64);
        counts.insert(row.name.to_owned(), count);
    }
    let file = baseline_file();
    fs::write(&file, Baseline { compiler, target, counts }.to_text())
        .map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(true)
}

fn compare(rows: &[&'static Row]) -> Result<bool, String> {
    let (compiler, target) = compiler_and_target()?;
    let text = fs::read_to_string(baseline_file()).map_err(|error| format!("no baseline ({error}): --renew"))?;
    let baseline = Baseline::parse(&text).map_err(|reason| format!("the baseline: {reason}"))?;
    if target != baseline.target {
        return Err(format!("the baseline is for {}, and this is {target}", baseline.target));
    }
    if compiler != baseline.compiler {
        println!("note: the baseline is by {}, this is {compiler}: exact rows are given 5 %", baseline.compiler);
    }
    let programs = Programs::build()?;
    println!("{:20} {:>14} {:>12} {:>12}", "row", "instructions", "each", "baseline");
    let mut all_same = true;
    for &row in rows {
        let count = programs.count(row).map_err(|reason| format!("{}: {reason}", row.name))?;
        let verdict = baseline.judge(row, count, &compiler);
        all_same &= verdict == Verdict::Same;
        let word = match verdict {
            Verdict::Same => "",
            Verdict::More => "MORE",
            Verdict::Fewer => "FEWER: renew the baseline",
            Verdict::OtherWork => "OTHER WORK: renew the baseline",
            Verdict::New => "NEW: renew the baseline",
        };
        let expected =
            baseline.counts.get(row.name).map_or(f64::NAN, |count| each(count.instructions, count.operations));
        let each = each(count.instructions, count.operations);
        println!("{:20} {:>14} {each:>12.2} {expected:>12.2} {word}", row.name, count.instructions);
    }
    if let Some(name) = baseline.counts.keys().find(|name| instructions::find(name).is_none()) {
        println!("the baseline has a row {name:?} that does not exist: renew it");
        all_same = false;
    }
    Ok(all_same)
}

fn each(instructions: u64, operations: u64) -> f64 {
    instructions as f64 / operations as f64
}
