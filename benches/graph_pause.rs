//! How long the program stands still for a graph of its heap: with a million small blocks, and with a gigabyte.
//!
//! `cargo bench -p pymalloc-benches --features graph --bench graph_pause` takes each graph five times by a copy of the
//! process, and three times in the process. It prints the machine's load beside them. If that is more than one on two
//! cores, the figures are of that load.

use std::hint::black_box;
use std::time::{Duration, Instant};

use pymalloc::Pymalloc;
use pymalloc::graph::{self, Config};
use pymalloc::trace::{self, Session};

#[global_allocator]
static GLOBAL: Pymalloc = Pymalloc::new();

const BLOCKS: usize = 1_000_000;
const LARGE_BLOCKS: usize = 1000;
const LARGE_BYTES: usize = 1 << 20;

/// Blocks of 40 bytes, each of which refers to another, in no order.
fn small() -> Vec<Box<[usize; 5]>> {
    let mut blocks: Vec<Box<[usize; 5]>> = Vec::with_capacity(BLOCKS);
    let mut random = 1_usize;
    for number in 0..BLOCKS {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let other = if number == 0 { 0 } else { blocks[(random >> 33) % number].as_ptr().expose_provenance() };
        blocks.push(Box::new([number, other, 0, 0, 0]));
    }
    blocks
}

/// A gigabyte of bytes that refer to nothing, all of them written.
fn large() -> Vec<Vec<u8>> {
    (0..LARGE_BLOCKS).map(|number| vec![number as u8 | 1; LARGE_BYTES]).collect()
}

fn least_and_most(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let millis = |time: Duration| time.as_secs_f64() * 1e3;
    let [least, median, most] = [times[0], times[times.len() / 2], times[times.len() - 1]].map(millis);
    format!("{median:.1} ms ({least:.1} to {most:.1})")
}

fn measure(what: &str, runs: usize, config: Config) {
    let (mut pauses, mut wholes, mut analyses, mut bytes) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for _ in 0..runs {
        let begun = Instant::now();
        let graph = graph::take(config).expect("a graph");
        wholes.push(begun.elapsed());
        pauses.push(graph.pause());
        bytes = graph.overhead_bytes();
        let begun = Instant::now();
        black_box(graph.leaks());
        analyses.push(begun.elapsed());
    }
    println!(
        "{what}: pause {}, until the graph is there {}, its dominators {}, it takes {} MB",
        least_and_most(pauses),
        least_and_most(wholes),
        least_and_most(analyses),
        bytes / 1_000_000
    );
}

fn load() -> String {
    let load = std::fs::read_to_string("/proc/loadavg").expect("Linux");
    load.split_whitespace().next().unwrap_or_default().to_owned()
}

fn main() {
    let _session = Session::start(trace::Config::new()).expect("the tracer is off");
    println!("load {}", load());
    let blocks = small();
    measure("a million blocks, by a copy", 5, Config::new());
    measure("a million blocks, in the process", 3, Config::new().in_process());
    drop(black_box(blocks));
    let blocks = large();
    measure("1000 blocks of 1 MiB, by a copy", 5, Config::new());
    measure("1000 blocks of 1 MiB, in the process", 3, Config::new().in_process());
    drop(black_box(blocks));
    println!("load {}", load());
}
