//! Builds one worker for each allocator and build mode, and keeps a copy of each. All are built as the same Cargo
//! target, so that the workloads' dependencies are compiled only once per mode.

use crate::arguments::{Mode, Options, package};
use crate::native::{self, Native};
use crate::page_cache;
use indicatif::{ProgressBar, ProgressStyle};
use peers::allocators::{Allocator, COUNTING};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// One worker, ready to run.
#[derive(Debug)]
pub struct Worker {
    /// How it was built.
    pub mode: Mode,
    /// With which allocator.
    pub allocator: &'static Allocator,
    /// The path of its program.
    pub program: PathBuf,
}

/// The workers that can be run.
#[derive(Debug, Default)]
pub struct Workers {
    /// The workers that are compared.
    pub compared: Vec<Worker>,
    /// The worker that counts requests.
    pub counting: Option<PathBuf>,
}

/// Builds the workers. A peer that cannot be built is dropped, with a line that says so. The baseline must be built, or
/// there is nothing to compare with.
pub fn workers(options: &Options) -> Result<Workers, String> {
    let counting_mode = options.modes[0];
    let mut wanted = vec![(counting_mode, &COUNTING)];
    for &mode in &options.modes {
        wanted.extend(options.allocators.iter().map(|&allocator| (mode, allocator)));
    }
    let bar = ProgressBar::new(wanted.len() as u64).with_style(bar_style());
    let mut workers = Workers { compared: Vec::new(), counting: None };
    for (mode, allocator) in wanted {
        bar.set_message(format!("building {} {}", mode.profile(), allocator.name));
        let result = if options.build {
            build(mode, allocator, &options.out)
        } else {
            let program = program_path(mode, allocator);
            if program.exists() { Ok(program) } else { Err("it was not built before".to_owned()) }
        };
        let result = result
            .and_then(|program| checked(program, mode, allocator, &options.out))
            .and_then(|program| match page_cache::forget(&program) {
                Ok(()) => Ok(program),
                Err(error) => Err(format!("{}: {error}", program.display())),
            });
        match result {
            Ok(program) if allocator.name == COUNTING.name => workers.counting = Some(program),
            Ok(program) => {
                workers.compared.push(Worker { mode, allocator, program });
            }
            Err(reason) if allocator.name == options.allocators[0].name => {
                return Err(format!(
                    "cannot build {} {}: {reason}",
                    allocator.name,
                    mode.profile()
                ));
            }
            Err(reason) => bar.suspend(|| {
                println!("dropped: {} {}: {reason}", allocator.name, mode.profile());
            }),
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(workers)
}

/// The look of both progress bars.
pub fn bar_style() -> ProgressStyle {
    ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed_precise} (left {eta}) {msg}")
        .expect("a valid template")
}

/// Returns the worker, if it has no C or C++ code or this is optimised. The proof is written to a file.
fn checked(
    program: PathBuf,
    mode: Mode,
    allocator: &Allocator,
    out: &Path,
) -> Result<PathBuf, String> {
    let native = native::inspect(&program);
    match native.map_err(|error| format!("{}: {error}", program.display()))? {
        Native::Unoptimised(record) => Err(format!("its C code is not optimised: {record}")),
        Native::Optimised(records) => {
            let file = out.join(format!("native-{}-{}.txt", mode.profile(), allocator.name));
            let lines: String = records.iter().map(|record| format!("{record}\n")).collect();
            fs::write(&file, lines).map_err(|error| format!("{}: {error}", file.display()))?;
            Ok(program)
        }
        Native::Unknown => {
            if allocator.is_native {
                println!("note: no record of how the C code of {} was compiled", allocator.name);
            }
            Ok(program)
        }
    }
}

fn program_path(mode: Mode, allocator: &Allocator) -> PathBuf {
    package().join("target/workers").join(mode.profile()).join(allocator.name)
}

fn build(mode: Mode, allocator: &Allocator, out: &Path) -> Result<PathBuf, String> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let output = Command::new(cargo)
        .args(["build", "--locked", "--bin", "worker", "--no-default-features", "--target-dir"])
        .arg(package().join("target"))
        .args([
            "--profile",
            mode.profile(),
            "--features",
            allocator.feature,
            "--features",
            "worker",
        ])
        .arg("--manifest-path")
        .arg(package().join("Cargo.toml"))
        .envs(native::recording_environment())
        .output()
        .map_err(|error| format!("cargo does not start: {error}"))?;
    let log = out.join(format!("build-{}-{}.log", mode.profile(), allocator.name));
    let text = String::from_utf8_lossy(&output.stderr);
    fs::write(&log, &*text).map_err(|error| format!("{}: {error}", log.display()))?;
    if !output.status.success() {
        let reason = text.lines().find(|line| line.starts_with("error"));
        return Err(format!("{} (log: {})", reason.unwrap_or("failed"), log.display()));
    }
    let program = program_path(mode, allocator);
    let built = package().join("target").join(mode.profile()).join("worker");
    fs::create_dir_all(program.parent().expect("it is in a directory"))
        .and_then(|()| fs::copy(&built, &program))
        .map_err(|error| format!("cannot copy {}: {error}", built.display()))?;
    Ok(program)
}
