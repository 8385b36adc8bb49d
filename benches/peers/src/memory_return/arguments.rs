//! The command line.

use peers::allocators::{self, ALLOCATORS, Allocator, BASELINE};
use peers::patterns::{self, PATTERNS, Pattern};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// The allocators that the patterns run with; the verdicts compare them.
const COMPARED: [&str; 5] = [BASELINE, "pymalloc-medium", "glibc", "jemalloc", "mimalloc3"];

/// The patterns to run.
#[derive(Debug)]
pub struct Options {
    pub patterns: Vec<&'static Pattern>,
    pub allocators: Vec<&'static Allocator>,
    /// The folder of the report.
    pub out: PathBuf,
    /// Whether to build workers first; if not, those of the last time are used.
    pub build: bool,
}

/// The action that the command line asks for.
#[derive(Debug)]
pub enum Command {
    Compare(Options),
    /// Only printing a text.
    Print(String),
}

const HELP: &str = "\
Runs patterns of threads, sizes and phases beside other allocators, and records resident memory over time.

  --only A,B         these patterns (see --list)
  --peers A,B        of pymalloc-medium, glibc, jemalloc and mimalloc3, these; pymalloc is always there
  --out DIR          where the report goes (default target/return of this package)
  --no-build         use the workers of the last time
  --list             print the patterns
  --help             print this
";

/// The folder of this package.
pub fn package() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Reads the command line; the error is one line for the user.
pub fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Command, String> {
    let mut options = Options {
        patterns: PATTERNS.iter().collect(),
        allocators: COMPARED.iter().filter_map(|name| allocators::find(name)).collect(),
        out: package().join("target/return"),
        build: true,
    };
    while let Some(argument) = arguments.next() {
        // Both `--out DIR` and `--out=DIR`.
        let (name, mut inline) = match argument.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (argument.as_str(), None),
        };
        if matches!(name, "--no-build" | "--list" | "--help" | "-h") && inline.is_some() {
            return Err(format!("{name} takes no value"));
        }
        let mut value = || {
            let given = inline.take().or_else(|| arguments.next());
            given.filter(|value| !value.is_empty()).ok_or(format!("{name} needs a value"))
        };
        match name {
            "--no-build" => options.build = false,
            "--list" => return Ok(Command::Print(list())),
            "--help" | "-h" => return Ok(Command::Print(HELP.to_owned())),
            "--only" => options.patterns = wanted_patterns(&value()?)?,
            "--peers" => options.allocators = wanted_allocators(&value()?)?,
            "--out" => options.out = PathBuf::from(value()?),
            _ => return Err(format!("unknown argument {argument:?}; --help lists all")),
        }
    }
    Ok(Command::Compare(options))
}

fn wanted_patterns(text: &str) -> Result<Vec<&'static Pattern>, String> {
    let wanted: Vec<&str> = text.split(',').collect();
    match wanted.iter().find(|name| patterns::find(name).is_none()) {
        Some(name) => Err(format!("no pattern is called {name:?}; --list shows all")),
        None => Ok(PATTERNS.iter().filter(|pattern| wanted.contains(&pattern.name)).collect()),
    }
}

fn wanted_allocators(text: &str) -> Result<Vec<&'static Allocator>, String> {
    let wanted: Vec<&str> = text.split(',').collect();
    match wanted.iter().find(|name| !COMPARED.contains(name)) {
        Some(name) => Err(format!("{name:?} is none of {}", COMPARED.join(", "))),
        None => {
            let is_wanted = |name: &str| name == BASELINE || wanted.contains(&name);
            Ok(ALLOCATORS
                .iter()
                .filter(|one| COMPARED.contains(&one.name) && is_wanted(one.name))
                .collect())
        }
    }
}

fn list() -> String {
    PATTERNS.iter().fold(String::new(), |mut text, pattern| {
        writeln!(text, "{:18} {}", pattern.name, pattern.about).expect("a string grows");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::{Command, parse};

    #[test]
    fn a_bad_command_line_is_refused_in_one_line() {
        for words in
            ["--only nothing", "--only", "--peers tcmalloc", "--list=1", "surplus", "--out="]
        {
            let complaint = parse(words.split_whitespace().map(str::to_owned)).expect_err(words);
            assert_eq!(complaint.lines().count(), 1, "{complaint}");
        }
    }

    #[test]
    fn this_crate_is_always_compared() {
        let words = ["--peers=glibc", "--only", "limit,phases-8"].map(str::to_owned);
        let Ok(Command::Compare(options)) = parse(words.into_iter()) else {
            panic!("a good command line")
        };
        assert_eq!(
            options.allocators.iter().map(|one| one.name).collect::<Vec<_>>(),
            ["pymalloc", "glibc"]
        );
        assert_eq!(
            options.patterns.iter().map(|one| one.name).collect::<Vec<_>>(),
            ["phases-8", "limit"]
        );
    }
}
