//! Runs one worker, and watches its resident memory meanwhile.

use crate::build;
use peers::allocators::Allocator;
use peers::patterns::Pattern;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};
use std::{fs, thread};

/// The time between two looks.
const INTERVAL: Duration = Duration::from_millis(10);
/// A worker that takes longer counts as hanging.
const TIMEOUT: Duration = Duration::from_secs(300);

/// One run.
#[derive(Debug)]
pub struct Run {
    pub pattern: &'static Pattern,
    pub allocator: &'static Allocator,
    /// Milliseconds since the start, and resident KiB.
    pub samples: Vec<(u64, u64)>,
    /// When the parts of the pattern began, in milliseconds, and their names.
    pub marks: Vec<(u64, String)>,
    /// Names and values of the figures.
    pub figures: Vec<(String, f64)>,
}

impl Run {
    /// The figure of that name.
    pub fn figure(&self, name: &str) -> Option<f64> {
        self.figures.iter().find(|figure| figure.0 == name).map(|figure| figure.1)
    }

    fn note(&mut self, millis: u64, line: &str) {
        if let Some(label) = line.strip_prefix("mark ") {
            self.marks.push((millis, label.to_owned()));
        } else if let Some((value, name)) =
            line.strip_prefix("figure ").and_then(|rest| rest.split_once(' '))
            && let Ok(value) = value.parse()
        {
            self.figures.push((name.to_owned(), value));
        }
    }
}

/// Runs the worker to its end.
pub fn run(pattern: &'static Pattern, allocator: &'static Allocator) -> Result<Run, String> {
    let mut child = Command::new(build::program(allocator))
        .arg(pattern.name)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{}: {error}", build::program(allocator).display()))?;
    let mut run =
        Run { pattern, allocator, samples: Vec::new(), marks: Vec::new(), figures: Vec::new() };
    let lines = lines(&mut child);
    let clock = Instant::now();
    loop {
        match lines.recv_timeout(INTERVAL) {
            Ok(line) => run.note(millis(clock), &line),
            Err(RecvTimeoutError::Timeout) => {
                if let Some(kib) = resident_kib(child.id()) {
                    run.samples.push((millis(clock), kib));
                }
                if clock.elapsed() > TIMEOUT {
                    // The child is ours and not waited for yet.
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err(format!("no end after {} s", TIMEOUT.as_secs()));
                }
            }
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    let status = child.wait().map_err(|error| error.to_string())?;
    if status.success() { Ok(run) } else { Err(status.to_string()) }
}

fn millis(clock: Instant) -> u64 {
    clock.elapsed().as_millis() as u64
}

/// The worker's lines as they come.
fn lines(child: &mut Child) -> Receiver<String> {
    let (sender, receiver) = channel();
    let output = child.stdout.take().expect("it is piped");
    thread::spawn(move || {
        // Ends with the worker, or when the receiver is gone.
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}

/// Resident KiB of a process; `None` if it is ending.
fn resident_kib(process: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{process}/statm")).ok()?;
    let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
    // SAFETY: asks for a constant of the system.
    let page_bytes = u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).ok()?;
    Some(pages * page_bytes / 1024)
}
