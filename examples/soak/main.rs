//! Runs the allocator for as long as you like: a live set that grows, peaks, drops to a scattered
//! hundredth and goes away, again and again, in several threads that free each other's blocks, start others and end.
//! The OS refuses memory at random, or takes none back; now and then there is a limit, or a fork.
//! All contents are verified, and each cycle ends with a self-check and with the memory returned.

#[path = "../../tests/common/mod.rs"]
mod common;
mod faults;
mod worker;

use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use common::{Block, Rng};
use faults::Refused;
use pymalloc::stats::Stats;
use pymalloc::{ARENA_BYTES, Pymalloc};
use worker::{Shared, Worker};

#[global_allocator]
static GLOBAL: Pymalloc = Pymalloc::new();

const USAGE: &str = "usage: soak [--minutes M] [--threads N] [--seed S]";
const PROGRESS_EVERY: Duration = Duration::from_secs(5);
/// Small blocks that the runtime and the threads themselves may hold: not the program's.
const SLACK_BLOCKS: usize = 100;

struct Options {
    minutes: f64,
    threads: usize,
    seed: u64,
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options = Options {
        minutes: 1.0,
        threads: thread::available_parallelism().map_or(2, |threads| usize::from(threads).max(2)),
        seed: 1,
    };
    while let Some(option) = arguments.next() {
        let value = arguments.next();
        let value = value.as_deref();
        let known = match option.as_str() {
            "--minutes" => value.and_then(|text| text.parse().ok()).map(|minutes| options.minutes = minutes),
            "--threads" => value.and_then(|text| text.parse().ok()).map(|threads| options.threads = threads),
            "--seed" => value.and_then(|text| text.parse().ok()).map(|seed| options.seed = seed),
            _ => return Err(format!("unknown option {option}; {USAGE}")),
        };
        known.ok_or_else(|| format!("{option} needs a number; {USAGE}"))?;
    }
    // Up to a year: what a `Duration` can hold, and a terminal.
    if !(options.minutes > 0.0 && options.minutes <= 525_600.0) {
        return Err(format!("--minutes needs a number above 0; {USAGE}"));
    }
    if !(1..=1000).contains(&options.threads) {
        return Err(format!("--threads needs a number from 1 to 1000; {USAGE}"));
    }
    Ok(options)
}

/// How often a worker rests in a cycle.
const RESTS: usize = 4;
/// After which of them the limit, if any, is set; at the next one it is lifted.
const LIMITED: usize = 0;
/// Of so many cycles, one is under a limit; and of so many others, one sees a fork.
const LIMITED_ONE_IN: usize = 4;
const FORKED_ONE_IN: usize = 4;

#[derive(Default)]
struct Counts {
    cycles: u64,
    allocated: u64,
    nulls: u64,
    visitors: u64,
    limits: u64,
    forks: u64,
}

struct Soak {
    options: Options,
    started: Instant,
    printed: Instant,
    rng: Rng,
    counts: Counts,
    /// Arenas mapped when the program holds nothing.
    floor: usize,
}

impl Soak {
    fn new(options: Options) -> Self {
        let now = Instant::now();
        let floor = common::arenas_at_floor();
        let rng = Rng::new(options.seed);
        faults::seed(options.seed);
        Self { options, started: now, printed: now, rng, counts: Counts::default(), floor }
    }

    fn summary(&self) -> String {
        let Stats { arenas_mapped, arenas_peak, .. } = pymalloc::stats();
        format!(
            "{:.0} s: {} cycles, {} blocks, {} short threads, {} forks; refused: {Refused}; {} limits; \
             {} requests got null; \
             arenas: {arenas_mapped} now, {arenas_peak} at the peak, {} at the floor",
            self.started.elapsed().as_secs_f64(),
            self.counts.cycles,
            self.counts.allocated,
            self.counts.visitors,
            self.counts.forks,
            self.counts.limits,
            self.counts.nulls,
            self.floor,
        )
    }

    fn print_when_due(&mut self) {
        if self.printed.elapsed() >= PROGRESS_EVERY {
            println!("{}", self.summary());
            self.printed = Instant::now();
        }
    }

    fn is_over(&self) -> bool {
        self.started.elapsed().as_secs_f64() >= self.options.minutes * 60.0
    }

    fn wait_at_gate(&mut self, shared: &Shared) {
        shared.gate.wait_for(self.options.threads, || self.print_when_due());
    }

    fn cycle(&mut self) {
        let before = common::assert_sound().blocks_live();
        let shared = Shared::default();
        let (senders, inboxes): (Vec<_>, Vec<_>) = (0..self.options.threads).map(|_| channel()).unzip();
        thread::scope(|scope| {
            // Each thread gives to the next, the last to the first.
            let neighbours = senders.iter().cycle().skip(1).cloned();
            let threads: Vec<_> = (0..)
                .zip(inboxes)
                .zip(neighbours)
                .map(|((number, inbox), neighbour)| {
                    let serial = (self.counts.cycles << 40) + (number << 32);
                    let rng = Rng::new(self.options.seed ^ Rng::new(serial).next());
                    let mut worker = Worker { shared: &shared, rng, mine: Vec::new(), inbox, neighbour, serial };
                    scope.spawn(move || worker.cycle())
                })
                .collect();
            if self.rng.below(FORKED_ONE_IN) == 0 {
                thread::sleep(Duration::from_millis(self.rng.below(100) as u64));
                self.fork();
            }
            let limited = self.rng.below(LIMITED_ONE_IN) == 0;
            for rest in 0..RESTS {
                // Under a limit, printing might get no memory.
                if !limited || rest != LIMITED + 1 {
                    self.wait_at_gate(&shared);
                }
                shared.gate.wait_for(self.options.threads, || ());
                if rest == LIMITED + 1 {
                    pymalloc::set_limit(None);
                }
                shared.gate.open();
                self.wait_at_gate(&shared);
                let live = shared.live.swap(0, Ordering::Relaxed);
                let Stats { arenas_mapped, .. } =
                    common::assert_live_near(before + live, SLACK_BLOCKS + 8 * threads.len());
                if limited && rest == LIMITED {
                    let arenas = arenas_mapped / 2 + self.rng.below(arenas_mapped / 2 + 1);
                    pymalloc::set_limit(Some(arenas * ARENA_BYTES));
                    self.counts.limits += 1;
                }
                shared.gate.open();
            }
            // Joined by hand: a scope does not wait for the thread-locals.
            for thread in threads {
                thread.join().expect("a panic has ended the process");
            }
        });
        drop(senders);
        // What the OS does not take back now, it takes at the next time.
        faults::amid(pymalloc::purge);
        let arenas = common::arenas_after_purge();
        assert!(arenas <= self.floor, "{arenas} arenas stay mapped, {} did before", self.floor);
        common::assert_live_near(before, SLACK_BLOCKS);
        self.counts.cycles += 1;
        self.counts.allocated += shared.allocated.into_inner();
        self.counts.nulls += shared.nulls.into_inner();
        self.counts.visitors += shared.visitors.into_inner();
    }

    /// Forks in the middle of whatever the others do; the child uses its copy of the heap, checks it, and ends.
    fn fork(&mut self) {
        let mut rng = Rng::new(self.rng.next());
        // SAFETY: the child allocates and frees, checks the heap and exits; it knows nothing of the other threads.
        let child = unsafe { libc::fork() };
        assert_ne!(child, -1);
        if child == 0 {
            let mut blocks: Vec<Block> = (0..5000).map(|serial| Block::random(serial, &mut rng)).collect();
            rng.shuffle(&mut blocks);
            drop(blocks);
            common::assert_sound();
            // SAFETY: always allowed; no exit handler runs. A panic has exited with 1.
            unsafe { libc::_exit(0) };
        }
        let mut status = 0;
        // SAFETY: `status` is a place for the status of our own child.
        let ended = unsafe { libc::waitpid(child, &raw mut status, 0) };
        assert_eq!((ended, status), (child, 0), "a forked child failed");
        self.counts.forks += 1;
    }
}

fn main() -> ExitCode {
    let options = match parse(std::env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned())) {
        Ok(options) => options,
        Err(failure) => {
            eprintln!("soak: {failure}");
            return ExitCode::from(2);
        }
    };
    println!("soak: {} minutes, {} threads, seed {}", options.minutes, options.threads, options.seed);
    // The other threads would wait at the gate for one that panicked.
    std::panic::set_hook(Box::new(|panic| {
        eprintln!("soak: FAILED: {panic}");
        std::process::exit(1);
    }));
    let mut soak = Soak::new(options);
    while !soak.is_over() {
        soak.cycle();
        soak.print_when_due();
    }
    println!("soak: passed after {}", soak.summary());
    ExitCode::SUCCESS
}
