//! Runs the allocator for as long as you like: a live set that grows, peaks, drops to a scattered
//! hundredth and goes away, again and again, in several threads that free each other's blocks.
//! All contents are verified, and each cycle ends with a self-check and with the memory returned.

#[path = "../tests/common/mod.rs"]
mod common;

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use common::{Block, Rng};
use pymalloc::{Pymalloc, Stats};

#[global_allocator]
static GLOBAL: Pymalloc = Pymalloc::new();

const USAGE: &str = "usage: soak [--minutes M] [--threads N] [--seed S]";
const PEAK_BLOCKS_PER_THREAD: usize = 100_000;
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

/// Where the threads wait until all have come, the main thread has looked at the heap at rest, and
/// opens. (A `Barrier` would not let it print meanwhile.)
#[derive(Default)]
struct Gate {
    arrived: AtomicUsize,
    opened: AtomicUsize,
}

impl Gate {
    fn pass(&self) {
        let opened = self.opened.load(Ordering::Acquire);
        // AcqRel and Acquire here, Release in `open`: what one thread did before the gate, all
        // others see behind it.
        self.arrived.fetch_add(1, Ordering::AcqRel);
        while self.opened.load(Ordering::Acquire) == opened {
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn wait_for(&self, threads: usize, mut meanwhile: impl FnMut()) {
        while self.arrived.load(Ordering::Acquire) < threads {
            meanwhile();
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn open(&self) {
        self.arrived.store(0, Ordering::Relaxed);
        self.opened.fetch_add(1, Ordering::Release);
    }
}

/// What the threads of a cycle and the main thread know of each other.
#[derive(Default)]
struct Shared {
    gate: Gate,
    /// Small blocks that the threads hold; right when all are at the gate.
    live: AtomicUsize,
    allocated: AtomicU64,
}

struct Worker<'a> {
    shared: &'a Shared,
    rng: Rng,
    mine: Vec<Block>,
    inbox: Receiver<Vec<Block>>,
    neighbour: Sender<Vec<Block>>,
    serial: u64,
}

impl Worker<'_> {
    fn allocate(&mut self) {
        self.serial += 1;
        self.mine.push(Block::random(self.serial, &mut self.rng));
    }

    fn free_any(&mut self) {
        let any = self.rng.below(self.mine.len());
        drop(self.mine.swap_remove(any));
    }

    /// Gives the last `blocks` to the neighbour.
    fn give(&mut self, blocks: usize) {
        let given = self.mine.split_off(self.mine.len() - blocks);
        self.neighbour.send(given).expect("it ends when we do");
    }

    /// What the others have given. (A receive that blocks would allocate something that stays
    /// until the thread ends.)
    fn taken(&self) -> Vec<Block> {
        self.inbox.try_iter().flatten().collect()
    }

    fn grow(&mut self) {
        while self.mine.len() < PEAK_BLOCKS_PER_THREAD {
            for _ in 0..1000 {
                self.allocate();
                if self.rng.below(4) == 0 {
                    self.free_any();
                }
            }
            self.rng.shuffle(&mut self.mine);
            self.give(100);
            let taken = self.taken();
            self.mine.extend(taken);
        }
    }

    fn replace(&mut self, blocks: usize) {
        for _ in 0..blocks {
            self.free_any();
            self.allocate();
        }
    }

    /// Keeps a scattered hundredth; half of the others are freed by the neighbour.
    fn drop_most(&mut self) {
        self.rng.shuffle(&mut self.mine);
        let kept = self.mine.len() / 100;
        self.give((self.mine.len() - kept) / 2);
        self.mine.truncate(kept);
    }

    /// Waits for all at one gate, behind which nobody gives any more, so that what is taken is
    /// all; then at another, where the main thread looks at the heap at rest.
    fn rest(&mut self, keep: bool) {
        self.shared.gate.pass();
        let taken = self.taken();
        if keep {
            self.mine.extend(taken);
        } else {
            drop(taken);
        }
        let small = self.mine.iter().filter(|block| block.is_small()).count();
        self.shared.live.fetch_add(small, Ordering::Relaxed);
        self.shared.gate.pass();
    }

    /// The threads rest `RESTS` times.
    fn cycle(&mut self) {
        let first = self.serial;
        self.grow();
        self.rest(true);
        self.replace(PEAK_BLOCKS_PER_THREAD / 2);
        self.drop_most();
        self.rest(false);
        // The free space between the survivors is used again.
        for _ in 0..PEAK_BLOCKS_PER_THREAD / 4 {
            self.allocate();
        }
        self.rng.shuffle(&mut self.mine);
        self.mine.clear();
        pymalloc::flush_thread_cache();
        self.rest(false);
        self.shared.allocated.fetch_add(self.serial - first, Ordering::Relaxed);
    }
}

const RESTS: usize = 3;

struct Soak {
    options: Options,
    started: Instant,
    printed: Instant,
    cycles: u64,
    allocated: u64,
    /// Arenas mapped when the program holds nothing.
    floor: usize,
}

impl Soak {
    fn new(options: Options) -> Self {
        let now = Instant::now();
        let floor = common::arenas_at_floor();
        Self { options, started: now, printed: now, cycles: 0, allocated: 0, floor }
    }

    fn summary(&self) -> String {
        let Stats { arenas_mapped, arenas_peak, .. } = pymalloc::stats();
        format!(
            "{:.0} s: {} cycles, {} blocks; arenas: {arenas_mapped} now, {arenas_peak} at the peak, {} at the floor",
            self.started.elapsed().as_secs_f64(),
            self.cycles,
            self.allocated,
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
                    let serial = (self.cycles << 40) + (number << 32);
                    let rng = Rng::new(self.options.seed ^ Rng::new(serial).next());
                    let mut worker = Worker { shared: &shared, rng, mine: Vec::new(), inbox, neighbour, serial };
                    scope.spawn(move || worker.cycle())
                })
                .collect();
            for _ in 0..RESTS {
                self.wait_at_gate(&shared);
                shared.gate.open();
                self.wait_at_gate(&shared);
                let live = shared.live.swap(0, Ordering::Relaxed);
                common::assert_live_near(before + live, SLACK_BLOCKS + 8 * threads.len());
                shared.gate.open();
            }
            // Joined by hand: a scope does not wait for the thread-locals.
            for thread in threads {
                thread.join().expect("a panic has ended the process");
            }
        });
        drop(senders);
        let arenas = common::arenas_after_purge();
        assert!(arenas <= self.floor, "{arenas} arenas stay mapped, {} did before", self.floor);
        common::assert_live_near(before, SLACK_BLOCKS);
        self.cycles += 1;
        self.allocated += shared.allocated.into_inner();
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
