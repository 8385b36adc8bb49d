//! How well memory follows the live set: runs each memory pattern with a few allocators, records RSS over time, and
//! reports which figures meet the project's limits.

mod arguments;
mod build;
mod plot;
mod report;
mod watch;

use arguments::{Command, Options};
use std::process::ExitCode;
use std::{env, fs};
use watch::Run;

fn main() -> ExitCode {
    let options = match arguments::parse(env::args().skip(1)) {
        Ok(Command::Compare(options)) => options,
        Ok(Command::Print(text)) => {
            print!("{text}");
            return ExitCode::SUCCESS;
        }
        Err(complaint) => {
            eprintln!("{complaint}");
            return ExitCode::from(2);
        }
    };
    match compare(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(complaint) => {
            eprintln!("{complaint}");
            ExitCode::FAILURE
        }
    }
}

/// Whether no run of this crate failed.
fn compare(options: &Options) -> Result<bool, String> {
    let out = &options.out;
    let cannot_write =
        |error: std::io::Error| format!("cannot write to {}: {error}", out.display());
    fs::create_dir_all(out).map_err(cannot_write)?;
    if options.build {
        options.allocators.iter().try_for_each(|allocator| build::worker(allocator, out))?;
    }
    let mut runs: Vec<Run> = Vec::new();
    let mut failures = 0;
    for &pattern in &options.patterns {
        for &allocator in &options.allocators {
            if pattern.ours_only && !allocator.is_ours() {
                continue;
            }
            eprintln!("{} with {}", pattern.name, allocator.name);
            match watch::run(pattern, allocator) {
                Ok(run) => runs.push(run),
                Err(reason) => {
                    println!("failed: {} with {}: {reason}", pattern.name, allocator.name);
                    failures += usize::from(allocator.is_ours());
                }
            }
        }
    }
    let text = report::table(options, &runs);
    fs::write(out.join("return.txt"), &text).map_err(cannot_write)?;
    fs::write(out.join("return.csv"), report::figures_csv(&runs)).map_err(cannot_write)?;
    fs::write(out.join("return-samples.csv"), report::samples_csv(&runs)).map_err(cannot_write)?;
    for pattern in &options.patterns {
        let of_pattern: Vec<&Run> =
            runs.iter().filter(|run| run.pattern.name == pattern.name).collect();
        let path = out.join(format!("return-{}.svg", pattern.name));
        plot::draw(&path, pattern, &of_pattern)
            .map_err(|error| format!("{}: {error}", path.display()))?;
    }
    println!("{text}\nReport: {}", out.display());
    Ok(failures == 0)
}
