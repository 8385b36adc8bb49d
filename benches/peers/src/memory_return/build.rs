//! Builds one worker per allocator, and keeps a copy of each.

use crate::arguments::package;
use peers::allocators::Allocator;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// The path of the worker.
pub fn program(allocator: &Allocator) -> PathBuf {
    package().join("target/patterns").join(allocator.name)
}

/// Builds a worker; Cargo's output goes to a file in `out`.
pub fn worker(allocator: &Allocator, out: &Path) -> Result<(), String> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let features = format!("pattern,{}", allocator.feature);
    let output = Command::new(cargo)
        .args(["build", "--locked", "--release", "--bin", "pattern", "--no-default-features"])
        .args(["--features", &features, "--target-dir"])
        .arg(package().join("target"))
        .arg("--manifest-path")
        .arg(package().join("Cargo.toml"))
        .output()
        .map_err(|error| format!("cargo does not start: {error}"))?;
    let log = out.join(format!("build-{}.log", allocator.name));
    fs::write(&log, &output.stderr).map_err(|error| format!("{}: {error}", log.display()))?;
    if !output.status.success() {
        return Err(format!("{} can't be built (log: {})", allocator.name, log.display()));
    }
    let (built, program) = (package().join("target/release/pattern"), program(allocator));
    fs::create_dir_all(program.parent().expect("it is in a directory"))
        .and_then(|()| fs::copy(&built, &program))
        .map_err(|error| format!("cannot copy {}: {error}", built.display()))?;
    Ok(())
}
