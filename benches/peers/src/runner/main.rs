//! Compares pymalloc with other allocators: builds a worker for each, runs every workload in a
//! process of its own, in rounds, and reports medians as a table, as CSV and as plots.

mod arguments;
mod board;
mod build;
mod files;
mod kept;
mod native;
mod overhead;
mod page_cache;
mod plots;
mod ready_memory;
mod run;
mod table;
mod targets;

use arguments::{Command, Options};
use board::Board;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Instant;
use std::{env, fs, io};
use targets::Targets;

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

/// Whether all went well: no run of ours failed, and all checksums agree. A peer that could not be built, or that
/// crashed, is reported, but does not count as a failure.
fn compare(options: &Options) -> Result<bool, String> {
    fs::create_dir_all(&options.out)
        .map_err(|error| format!("cannot write to {}: {error}", options.out.display()))?;
    // This comes before the builds, so that a mistake does not cost minutes.
    let mut runs = if options.add { kept::read(options)? } else { run::Runs::default() };
    let clock = Instant::now();
    let workers = if options.build || options.run {
        build::workers(options)?
    } else {
        build::Workers::default()
    };
    let build_seconds = clock.elapsed().as_secs();
    kept::add(&mut runs, run::all_rounds(options, &workers));
    if runs.done.is_empty() && !options.build {
        return Err(format!("no runs to report on in {}", options.out.display()));
    }
    let report = kept::report_options(options, &runs);
    let options = if options.add { &report } else { options };
    let run_seconds = clock.elapsed().as_secs() - build_seconds;
    let boards: Vec<Board> =
        options.modes.iter().map(|&mode| Board::new(mode, options, &runs)).collect();
    let of_board =
        |board: &Board| Targets::new(board, &Board::of_each_round(board.mode, options, &runs));
    let targets: Vec<Targets> = boards.iter().map(of_board).collect();
    // The files are written before the terminal's text, because the reader of the terminal may stop reading.
    files::write(options, &runs, &boards, &targets)
        .and_then(|()| boards.iter().try_for_each(|board| plots::draw(&options.out, board)))
        .map_err(|error| format!("cannot write the report: {error}"))?;
    let mut text = String::new();
    for failure in &runs.peer_failures {
        text += &format!("failed: {failure}; left out of its medians\n");
    }
    let complaints = runs.complaints();
    for complaint in &complaints {
        text += &format!("error: {complaint}\n");
    }
    text += &table::render_all(&boards, &targets);
    let out = options.out.display();
    text += &format!("\nBuilt in {build_seconds} s, ran in {run_seconds} s. Report: {out}\n");
    // A closed pipe is no failure.
    let _ = io::stdout().write_all(text.as_bytes());
    Ok(complaints.is_empty())
}
