//! Builds the programs and runs them under callgrind.

use instructions::{Row, START_STOP};
use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Settings that make the C library use its oldest variants of memory copies. A name that it does not know does no
/// harm.
const OLD_PROCESSOR: &str = "glibc.cpu.hwcaps=-AVX,-AVX2,-AVX512F,-AVX512VL,-ERMS,-FSRM,-AVX_Fast_Unaligned_Load";

/// The cost of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// Instructions, including those of the loop around the operations.
    pub instructions: u64,
    /// Number of operations that took these instructions.
    pub operations: u64,
}

/// The built programs.
#[derive(Debug)]
pub struct Programs {
    directory: PathBuf,
}

impl Programs {
    /// Builds the programs.
    pub fn build() -> Result<Self, String> {
        let package = Path::new(env!("CARGO_MANIFEST_DIR"));
        let directory = package.join("target");
        let cargo = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
        let status = Command::new(cargo)
            .args(["build", "--quiet", "--release", "--locked", "--bins", "--target-dir"])
            .arg(&directory)
            .arg("--manifest-path")
            .arg(package.join("Cargo.toml"))
            .status()
            .map_err(|error| format!("cargo does not start: {error}"))?;
        if !status.success() {
            return Err("the programs to count do not compile".to_owned());
        }
        Ok(Self { directory: directory.join("release") })
    }

    /// Counts one row.
    pub fn count(&self, row: &Row) -> Result<Count, String> {
        if row.name == START_STOP {
            let ours = self.run("start_pymalloc", &[], &[])?.0;
            let others = self.run("start_system", &[], &[])?.0;
            let instructions = ours.checked_sub(others).ok_or("a program with System takes more instructions")?;
            return Ok(Count { instructions, operations: 1 });
        }
        let (instructions, printed) = self.run("rows", &[row.name], &["--toggle-collect=counted"])?;
        let operations = printed.trim().parse().map_err(|_| format!("it printed {printed:?}"))?;
        if instructions == 0 {
            return Err("callgrind counted nothing".to_owned());
        }
        Ok(Count { instructions, operations })
    }

    /// Runs a program; returns its instructions and its output.
    fn run(&self, program: &str, arguments: &[&str], options: &[&str]) -> Result<(u64, String), String> {
        let profile = self.directory.join(format!("{program}.callgrind"));
        let output = Command::new("valgrind")
            .args(["--quiet", "--tool=callgrind", "--combine-dumps=yes"])
            .arg(format!("--callgrind-out-file={}", profile.display()))
            .args(options)
            // The path is the same everywhere, because it becomes a string of the program, and so a block.
            .arg(format!("./{program}"))
            .args(arguments)
            .current_dir(&self.directory)
            // An empty environment: the user's settings of the C library must not count, and the stack must start at
            // the same place. libc copies by other instructions on other processors, unless a setting tells it that
            // this processor is old.
            .env_clear()
            .env("PATH", env::var_os("PATH").unwrap_or_default())
            .env("GLIBC_TUNABLES", OLD_PROCESSOR)
            .output()
            .map_err(|error| format!("valgrind does not start (is it installed?): {error}"))?;
        if !output.status.success() {
            let complaint = String::from_utf8_lossy(&output.stderr);
            return Err(format!("{}: {}", output.status, complaint.lines().next().unwrap_or("no message")));
        }
        let text = fs::read_to_string(&profile).map_err(|error| format!("{}: {error}", profile.display()))?;
        let instructions = total(&text).ok_or_else(|| format!("no total in {}", profile.display()))?;
        Ok((instructions, String::from_utf8_lossy(&output.stdout).into_owned()))
    }
}

/// The number of instructions of a whole profile.
fn total(profile: &str) -> Option<u64> {
    let words = profile.lines().find_map(|line| line.strip_prefix("totals:"))?;
    words.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::total;

    #[test]
    fn the_total_is_the_first_number_of_its_line() {
        assert_eq!(total("events: Ir\nfn=(1) main\n3 17\ntotals: 4711\n"), Some(4711));
        assert_eq!(total("events: Ir\nsummary: 4711\n"), None);
        assert_eq!(total("totals: many\n"), None);
    }
}
