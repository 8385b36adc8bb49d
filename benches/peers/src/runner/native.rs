//! Proof that the C and C++ peers are optimised: the compiler writes its own command line into the object files, the
//! linker keeps it, and this module reads it from the finished worker.
//! It does not rely on what build scripts and CMake say that they do.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::{env, fs, io};

/// The variables from which build scripts take the user's flags.
const VARIABLES: [&str; 2] = ["CFLAGS", "CXXFLAGS"];
/// The flag that makes GCC and Clang record their command line; it does not change the code.
const RECORD: &str = "-frecord-gcc-switches";
/// The start of such a record.
const RECORD_HEAD: &[u8] = b"GNU C";

/// The environment of a build, with recording switched on.
pub fn recording_environment() -> impl Iterator<Item = (&'static str, OsString)> {
    VARIABLES.into_iter().map(|variable| {
        let mut flags = env::var_os(variable).unwrap_or_default();
        flags.push(OsStr::new(" "));
        flags.push(OsStr::new(RECORD));
        (variable, flags)
    })
}

/// How a worker's C and C++ code was compiled.
#[derive(Debug)]
pub enum Native {
    /// There is no such code, or the compiler recorded nothing.
    Unknown,
    /// All of it is optimised; these are the distinct records.
    Optimised(BTreeSet<String>),
    /// Some of it is not optimised; this is its record.
    Unoptimised(String),
}

/// Reads the records in a worker.
pub fn inspect(program: &Path) -> io::Result<Native> {
    Ok(judge(records(&fs::read(program)?)))
}

fn records(program: &[u8]) -> BTreeSet<String> {
    let starts = (0..program.len()).filter(|&start| program[start..].starts_with(RECORD_HEAD));
    let record = |start: usize| {
        let text = program[start..].split(|&byte| byte == 0).next()?;
        let text = str::from_utf8(text).ok()?;
        // "GNU C17 12.2.0 -mtune=…": other texts may start the same, but have no flags.
        (text.contains(" -m") || text.contains(" -O")).then(|| text.to_owned())
    };
    starts.filter_map(record).collect()
}

fn judge(records: BTreeSet<String>) -> Native {
    let is_optimised = |record: &&String| {
        // The last optimisation flag counts.
        let level = record.split_whitespace().rfind(|word| word.starts_with("-O"));
        matches!(level, Some("-O2" | "-O3"))
    };
    if records.is_empty() {
        return Native::Unknown;
    }
    match records.iter().find(|record| !is_optimised(record)) {
        Some(record) => Native::Unoptimised(record.clone()),
        None => Native::Optimised(records),
    }
}

#[cfg(test)]
mod tests {
    use super::{Native, judge, records};

    fn judged(program: &[u8]) -> Native {
        judge(records(program))
    }

    #[test]
    fn code_without_o2_or_o3_is_found() {
        let good = b"\0GNU C17 12.2.0 -mtune=generic -O0 -O3 -fPIC\0GNU C++20 12 -m64 -O2\0";
        assert!(matches!(judged(good), Native::Optimised(records) if records.len() == 2));
        let bad = b"\0GNU C17 12.2.0 -m64 -O3\0GNU C++20 12.2.0 -m64 -g\0";
        assert!(matches!(judged(bad), Native::Unoptimised(record) if record.ends_with("-g")));
        assert!(matches!(judged(b"\0GNU Coreutils\0"), Native::Unknown));
    }
}
