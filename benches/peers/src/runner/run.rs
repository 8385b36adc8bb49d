//! Runs the workers: each pair of workload and allocator in a process of its own, in rounds.

use crate::arguments::{Mode, Options};
use crate::build::{Worker, Workers, bar_style};
use crate::ready_memory;
use indicatif::{ProgressBar, ProgressDrawTarget};
use peers::allocators::{Allocator, COUNTING};
use peers::catalog::Entry;
use peers::params::Scale;
use peers::sample::Sample;
use std::collections::BTreeMap;
use std::io::{IsTerminal, Read, stderr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;
use std::{fs, thread};

/// A worker that takes longer counts as hanging.
const TIMEOUT: Duration = Duration::from_secs(180);

/// One run.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// How the worker was built.
    pub mode: Mode,
    /// The workload.
    pub workload: &'static Entry,
    /// The allocator.
    pub allocator: &'static Allocator,
    /// The round, from 0.
    pub round: usize,
    /// The worker's report.
    pub sample: Sample,
}

/// All runs.
#[derive(Debug, Default)]
pub struct Runs {
    /// The runs that finished.
    pub done: Vec<Run>,
    /// The counting worker's reports, by workload.
    pub counted: BTreeMap<&'static str, Sample>,
    /// Runs of peers that crashed or hung: no failure of ours, but never hidden.
    pub peer_failures: Vec<String>,
    /// Runs of ours, or of the counting worker, that crashed or hung.
    pub failures: Vec<String>,
}

/// Counts requests, then runs all rounds. Workloads keep their order. Within a workload the allocators take turns, and
/// each round starts with the next allocator, so that none always comes first.
pub fn all_rounds(options: &Options, workers: &Workers) -> Runs {
    let mut runs = Runs::default();
    if !options.run {
        return runs;
    }
    let workloads: Vec<&'static Entry> = options.workloads.iter().copied().filter(fits).collect();
    let pairs = options.rounds * workers.compared.len() + usize::from(workers.counting.is_some());
    let bar = ProgressBar::new((workloads.len() * pairs) as u64).with_style(bar_style());
    if !stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    for &workload in &workloads {
        let Some(program) = &workers.counting else { break };
        bar.set_message(format!("counting {}", workload.name));
        match run(program, workload, options.scale) {
            Ok(sample) => drop(runs.counted.insert(workload.name, sample)),
            Err(reason) => runs.fail(workload, &COUNTING, &reason),
        }
        bar.inc(1);
    }
    for round in 0..options.rounds {
        if bar.is_hidden() {
            eprintln!("round {} of {}", round + 1, options.rounds);
        }
        for &workload in &workloads {
            let count = workers.compared.len();
            for turn in 0..count {
                let Worker { mode, allocator, program } = &workers.compared[(round + turn) % count];
                let (mode, allocator) = (*mode, *allocator);
                bar.set_message(format!("{} {}", workload.name, allocator.name));
                ready_memory::touch(workload, options.scale);
                match run(program, workload, options.scale) {
                    Ok(sample) => {
                        runs.done.push(Run { mode, workload, allocator, round, sample });
                    }
                    Err(reason) => runs.fail(workload, allocator, &reason),
                }
                bar.inc(1);
            }
        }
    }
    bar.finish_and_clear();
    runs
}

/// Whether this machine has enough memory; prints a line if not.
fn fits(workload: &&'static Entry) -> bool {
    let available_mib = fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| {
            let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
            line.split_whitespace().next()?.parse::<usize>().ok()
        })
        .map_or(usize::MAX, |kib| kib >> 10);
    let fits = workload.needs_mib <= available_mib;
    if !fits {
        println!(
            "skipped: {} needs {} MiB, {available_mib} MiB are available",
            workload.name, workload.needs_mib
        );
    }
    fits
}

fn run(program: &Path, workload: &Entry, scale: Scale) -> Result<Sample, String> {
    let mut child = Command::new(program)
        .args([workload.name, "--scale", scale.name()])
        // Allocators read settings from the environment, so the worker gets none of the user's.
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("does not start: {error}"))?;
    let mut stdout = child.stdout.take().expect("it is piped");
    let (sender, receiver) = channel();
    // The pipe ends with the process. A thread reads it, so that the wait can have a limit.
    thread::spawn(move || {
        let mut text = String::new();
        let result = stdout.read_to_string(&mut text).map(|_| text);
        // After a timeout the receiver is gone, and the result is not needed.
        let _ = sender.send(result);
    });
    let text = receiver.recv_timeout(TIMEOUT);
    if text.is_err() {
        // It may have ended by itself at this moment; then there is nothing to kill.
        let _ = child.kill();
    }
    let output =
        child.wait_with_output().map_err(|error| format!("cannot be waited for: {error}"))?;
    let Ok(text) = text else {
        return Err(format!("killed after {} seconds", TIMEOUT.as_secs()));
    };
    let complaint = String::from_utf8_lossy(&output.stderr);
    let complaint = complaint.lines().next().unwrap_or("no message");
    if !output.status.success() {
        return Err(format!("{}: {complaint}", output.status));
    }
    let sample = text.ok().as_deref().and_then(Sample::parse);
    sample.ok_or_else(|| format!("printed no sample: {complaint}"))
}

impl Runs {
    fn fail(&mut self, workload: &Entry, allocator: &Allocator, reason: &str) {
        let peer = !allocator.is_ours() && allocator.name != COUNTING.name;
        let failures = if peer { &mut self.peer_failures } else { &mut self.failures };
        failures.push(format!("{} with {}: {reason}", workload.name, allocator.name));
    }

    /// Our own runs that failed, and all runs whose result differs from the others'.
    pub fn complaints(&self) -> Vec<String> {
        let mut complaints = self.failures.clone();
        let mut expected: BTreeMap<&str, (&str, u64)> = BTreeMap::new();
        for run in &self.done {
            let (first, checksum) = *expected
                .entry(run.workload.name)
                .or_insert((run.allocator.name, run.sample.checksum));
            if run.sample.checksum != checksum {
                complaints.push(format!(
                    "checksum of {} is {} with {} ({}, round {}), but {checksum} with {first}",
                    run.workload.name,
                    run.sample.checksum,
                    run.allocator.name,
                    run.mode.profile(),
                    run.round + 1,
                ));
            }
        }
        complaints
    }
}
