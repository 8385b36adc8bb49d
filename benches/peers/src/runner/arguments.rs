//! The command line.

use peers::allocators::{self, ALLOCATORS, Allocator, BASELINE, HARDENED};
use peers::catalog::{self, Entry, WORKLOADS};
use peers::params::Scale;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// The way to build a worker: a Cargo profile of this package.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// As most programs are built: no link-time optimisation.
    Release,
    /// Fat link-time optimisation, one code generation unit.
    Lto,
}

impl Mode {
    /// The name of the profile, and of its directory below `target`.
    pub const fn profile(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Lto => "lto",
        }
    }

    /// The mode of that profile.
    pub fn of_profile(name: &str) -> Option<Self> {
        [Self::Release, Self::Lto].into_iter().find(|mode| mode.profile() == name)
    }
}

/// What to compare, and how.
#[derive(Debug)]
pub struct Options {
    /// How much work a run does.
    pub scale: Scale,
    /// How workers are built, one comparison each.
    pub modes: Vec<Mode>,
    /// Runs of each workload with each allocator.
    pub rounds: usize,
    /// The workloads that are run.
    pub workloads: Vec<&'static Entry>,
    /// The allocators that are compared, the baseline first.
    pub allocators: Vec<&'static Allocator>,
    /// Where CSV, plots and build logs go.
    pub out: PathBuf,
    /// Whether to build workers first; if not, those of the last time are used.
    pub build: bool,
    /// Whether to stop after building.
    pub run: bool,
    /// Whether to add to the runs of the existing report.
    pub add: bool,
}

/// The action that the command line asks for.
#[derive(Debug)]
pub enum Command {
    /// A comparison.
    Compare(Options),
    /// Only printing a text.
    Print(String),
}

const HELP: &str = "\
Compares pymalloc with other allocators, each workload in a process of its own.

  --quick            one build mode (lto), short runs: within five minutes, builds not counted
  --rounds N         runs of each pair, interleaved (default 5; quick: 3)
  --only A,B         these workloads, or all of a theme (see --list)
  --peers A,B        these allocators; pymalloc is always one of them
  --mode M           release, lto or both (default both; quick: lto)
  --out DIR          where CSV, plots and build logs go (default target/report of this package)
  --no-build         use the workers of the last time
  --build-only       build the workers, run nothing
  --report-only      build and run nothing, report on the runs that DIR has
  --add              add to the runs that DIR has, and report on all: a comparison in parts
  --list             print workloads and allocators
  --help             print this
";

/// Reads the command line; the error is one line for the user.
pub fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Command, String> {
    let mut quick = false;
    let (mut rounds, mut only, mut peers, mut modes, mut out) = (None, None, None, None, None);
    let (mut build, mut run, mut add) = (true, true, false);
    while let Some(argument) = arguments.next() {
        // Both `--rounds 3` and `--rounds=3`.
        let (name, mut inline) = match argument.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (argument.as_str(), None),
        };
        let is_flag = matches!(
            name,
            "--quick"
                | "--no-build"
                | "--build-only"
                | "--report-only"
                | "--add"
                | "--list"
                | "--help"
                | "-h"
        );
        if is_flag && inline.is_some() {
            return Err(format!("{name} takes no value"));
        }
        let mut value = || {
            let given = inline.take().or_else(|| arguments.next());
            given.filter(|value| !value.is_empty()).ok_or(format!("{name} needs a value"))
        };
        match name {
            "--quick" => quick = true,
            "--no-build" => build = false,
            "--build-only" => run = false,
            "--add" => add = true,
            "--report-only" => (build, run, add) = (false, false, true),
            "--list" => return Ok(Command::Print(list())),
            "--help" | "-h" => return Ok(Command::Print(HELP.to_owned())),
            "--rounds" => rounds = Some(parse_rounds(&value()?)?),
            "--only" => only = Some(parse_workloads(&value()?)?),
            "--peers" => peers = Some(parse_allocators(&value()?)?),
            "--mode" => modes = Some(parse_modes(&value()?)?),
            "--out" => out = Some(PathBuf::from(value()?)),
            _ => return Err(format!("unknown argument {argument:?}; --help lists all")),
        }
    }
    let default_modes = if quick { vec![Mode::Lto] } else { vec![Mode::Release, Mode::Lto] };
    let default_workloads =
        || WORKLOADS.iter().filter(|entry| !(quick && entry.full_only)).collect();
    Ok(Command::Compare(Options {
        scale: if quick { Scale::Quick } else { Scale::Full },
        modes: modes.unwrap_or(default_modes),
        rounds: rounds.unwrap_or(if quick { 3 } else { 5 }),
        workloads: only.unwrap_or_else(default_workloads),
        allocators: peers
            .unwrap_or_else(|| ALLOCATORS.iter().filter(|peer| peer.name != HARDENED).collect()),
        out: out.unwrap_or_else(|| package().join("target/report")),
        build,
        run,
        add,
    }))
}

/// The folder of this package.
pub fn package() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn parse_rounds(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(rounds @ 1..=1_000) => Ok(rounds),
        _ => Err(format!("--rounds needs a number from 1 to 1000, not {text:?}")),
    }
}

fn parse_modes(text: &str) -> Result<Vec<Mode>, String> {
    match text {
        "release" => Ok(vec![Mode::Release]),
        "lto" => Ok(vec![Mode::Lto]),
        "both" => Ok(vec![Mode::Release, Mode::Lto]),
        _ => Err(format!("--mode needs release, lto or both, not {text:?}")),
    }
}

fn parse_workloads(text: &str) -> Result<Vec<&'static Entry>, String> {
    let wanted: Vec<&str> = text.split(',').collect();
    let known = |name: &&&str| {
        catalog::find(name).is_none() && !WORKLOADS.iter().any(|entry| entry.theme.name() == **name)
    };
    if let Some(name) = wanted.iter().find(known) {
        return Err(format!("no workload or theme is called {name:?}; --list shows all"));
    }
    let is_wanted = |entry: &&Entry| {
        wanted.iter().any(|&name| name == entry.name || name == entry.theme.name())
    };
    Ok(WORKLOADS.iter().filter(is_wanted).collect())
}

fn parse_allocators(text: &str) -> Result<Vec<&'static Allocator>, String> {
    let wanted: Vec<&str> = text.split(',').collect();
    if let Some(name) = wanted.iter().find(|name| allocators::find(name).is_none()) {
        return Err(format!("no allocator is called {name:?}; --list shows all"));
    }
    let is_wanted =
        |allocator: &&Allocator| allocator.name == BASELINE || wanted.contains(&allocator.name);
    Ok(ALLOCATORS.iter().filter(is_wanted).collect())
}

fn list() -> String {
    let mut text = String::from("Allocators\n");
    for allocator in ALLOCATORS {
        writeln!(text, "  {:22} {}", allocator.name, allocator.origin).expect("a string grows");
    }
    let mut theme = None;
    for entry in WORKLOADS {
        if theme.replace(entry.theme) != Some(entry.theme) {
            writeln!(text, "\nTheme {}", entry.theme.name()).expect("a string grows");
        }
        let note = if entry.full_only { " (not in a quick run)" } else { "" };
        writeln!(text, "  {:22} {}{note}", entry.name, entry.about).expect("a string grows");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{Command, Mode, Options, parse};

    fn options(words: &str) -> Result<Options, String> {
        match parse(words.split_whitespace().map(str::to_owned))? {
            Command::Compare(options) => Ok(options),
            Command::Print(text) => Err(text),
        }
    }

    #[test]
    fn a_bad_command_line_is_refused_in_one_line() {
        for words in [
            "--rounds 0",
            "--rounds x",
            "--rounds",
            "--only nothing",
            "--peers me",
            "--mode fast",
            "--quick=1",
            "surplus",
            "--out=",
        ] {
            let complaint = options(words).expect_err(words);
            assert_eq!(complaint.lines().count(), 1, "{complaint}");
        }
    }

    #[test]
    fn a_theme_stands_for_its_workloads_and_the_baseline_is_always_there() {
        let options = options("--only density-8,loops --peers=glibc --quick").expect("valid");
        assert_eq!(options.workloads.len(), 11);
        assert_eq!(options.allocators[0].name, "pymalloc");
        assert_eq!(options.allocators[1].name, "glibc");
        assert_eq!(options.modes, [Mode::Lto]);
        assert_eq!(options.rounds, 3);
    }
}
