//! Runs one workload once, with the allocator that a feature chose, and prints one line.
//!
//! `worker WORKLOAD [--scale full|quick]`; exit code 2 on a bad command line.

mod allocator;
mod block;
mod counting;
mod measure;
mod offheap;
mod random;
mod usage;
mod workloads;

use peers::params::Scale;
use std::process::ExitCode;

/// The argument with which start-stop starts this program again, to end at once.
const NOTHING: &str = "nothing";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (name, scale) = match words[..] {
        [NOTHING] => {
            println!("{}", usage::peak_rss());
            return ExitCode::SUCCESS;
        }
        [name] | [name, "--scale", "full"] => (name, Scale::Full),
        [name, "--scale", "quick"] => (name, Scale::Quick),
        _ => {
            eprintln!("usage: worker WORKLOAD [--scale full|quick]");
            return ExitCode::from(2);
        }
    };
    let Some(run) = workloads::find(name) else {
        eprintln!("worker: no workload is called {name:?}");
        return ExitCode::from(2);
    };
    println!("{}", run(scale).finish().to_line());
    ExitCode::SUCCESS
}
