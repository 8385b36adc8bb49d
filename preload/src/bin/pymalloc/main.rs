//! `pymalloc run -- program arguments…`: starts a program on `libpymalloc.so`.

mod leaks;
mod library;
#[cfg(feature = "trace")]
mod over_time;
mod program;
mod sockets;
#[cfg(feature = "trace")]
mod top;
mod traced;

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use clap::{Args, Parser, Subcommand};

/// Runs unchanged programs on the pymalloc allocator.
#[derive(Parser)]
#[command(name = "pymalloc", version)]
struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Starts a program with its malloc replaced; its exit status is the program's
    Run(Run),
    /// Shows what `run --timeline` recorded, in the terminal or as a page for a browser
    #[cfg(feature = "trace")]
    Timeline(over_time::Show),
    /// Shows live what a running program holds, if it was started by `run --serve` or calls `trace::serve`
    #[cfg(feature = "trace")]
    Top(top::Top),
}

#[derive(Args)]
struct Run {
    /// Print the allocator's report to stderr when the program exits, or append one line per process to FILE (an
    /// absolute path)
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, default_missing_value = "1")]
    stats: Option<OsString>,
    /// Save what the program held at its peak to FILE, for `go tool pprof` and others; `%p` in the name stands for the
    /// process's number, and then child processes are traced, too
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// The same as a flame graph, to be opened in a browser
    #[arg(long, value_name = "FILE.svg")]
    flame_graph: Option<PathBuf>,
    /// Save what the program holds when it exits instead: what it leaks
    #[arg(long)]
    trace_exit: bool,
    /// Frames per trace, 1 to 256 [default: 32]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=256))]
    trace_frames: Option<u16>,
    /// Trace one allocation every BYTES on average, rather than all
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1..=1 << 40))]
    trace_every: Option<u64>,
    /// Record memory over time to FILE: a page for a browser if its name ends in `.html`, else what `pymalloc timeline`
    /// reads; `%p` as for `--trace`
    #[arg(long, value_name = "FILE")]
    timeline: Option<PathBuf>,
    /// Milliseconds between samples [default: 100]
    #[arg(long, value_name = "MS", requires = "timeline", value_parser = clap::value_parser!(u32).range(1..=3_600_000))]
    timeline_every: Option<u32>,
    /// Answer `pymalloc top`, at a socket of this user's own
    #[arg(long)]
    serve: bool,
    /// Print, when the program exits, the blocks that nothing in it refers to any more, by call stack
    #[arg(long)]
    leaks: bool,
    /// Save the heap as a graph to FILE when the program exits, for Chrome's DevTools, VS Code and memlab; `%p` as
    /// above
    #[arg(long, value_name = "FILE.heapsnapshot")]
    heapsnapshot: Option<PathBuf>,
    /// Save it each time the program gets this signal instead: USR1, USR2, HUP or QUIT
    #[arg(long, value_name = "SIGNAL")]
    heapsnapshot_signal: Option<String>,
    /// Check every free at its call rather than when the block returns to its pool: by the hardened library if it was
    /// built, else by doing without caches (slow in threads)
    #[arg(long)]
    hardened: bool,
    /// The library, if it is not beside this command
    #[arg(long, value_name = "PATH")]
    library: Option<PathBuf>,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "PROGRAM")]
    command: Vec<OsString>,
}

fn run(run: Run) -> Result<ExitCode, String> {
    let library = library::find(run.library, run.hardened)?;
    let Some((name, arguments)) = run.command.split_first() else {
        return Err("no program".into());
    };
    let path = program::find(name)?;
    program::check(&path)?;
    let mut command = Command::new(&path);
    // The program sees the name by which it was called.
    command.arg0(name).args(arguments).env("LD_PRELOAD", library::preload_value(&library));
    if let Some(stats) = run.stats {
        if stats != "1" && !PathBuf::from(&stats).is_absolute() {
            return Err(format!("--stats: {} is not an absolute path", stats.display()));
        }
        command.env("PYMALLOC_REPORT", stats);
    }
    if run.hardened {
        command.env("PYMALLOC_HARDENED", "1");
    }
    let _files = traced::prepare(
        &mut command,
        &library,
        traced::Wish {
            profile: run.trace,
            flame_graph: run.flame_graph,
            timeline: run.timeline,
            timeline_every: run.timeline_every,
            serve: run.serve,
            at_exit: run.trace_exit,
            frames: run.trace_frames,
            every_bytes: run.trace_every,
        },
    )?;
    let wish = leaks::Wish {
        leaks: run.leaks,
        snapshot: run.heapsnapshot,
        signal: run.heapsnapshot_signal,
        samples: run.trace_every.is_some(),
    };
    leaks::prepare(&mut command, &library, wish)?;
    #[cfg(feature = "trace")]
    if let Some(files) = &_files {
        return over_time::run(command, files);
    }
    // Returns only if the program could not be started.
    Err(format!("{}: {}", path.display(), command.exec()))
}

fn main() -> ExitCode {
    let done = match Arguments::parse().action {
        Action::Run(arguments) => run(arguments),
        #[cfg(feature = "trace")]
        Action::Timeline(arguments) => over_time::show(&arguments).map(|()| ExitCode::SUCCESS),
        #[cfg(feature = "trace")]
        Action::Top(arguments) => top::run(&arguments).map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|error| {
        eprintln!("pymalloc: {error}");
        ExitCode::from(2)
    })
}
