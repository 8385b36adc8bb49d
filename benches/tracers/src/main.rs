//! What a heap profiler costs: the same work under one of them, or with it off.
//!
//! `tracers MODE [BLOCKS ROUNDS]` prints nanoseconds an allocation and its free, and bytes of memory a live block beyond
//! its own. With few blocks and rounds, callgrind counts instructions.

use std::hint::black_box;
use std::time::Instant;

const BLOCKS: usize = 200_000;
const ROUNDS: usize = 5;

/// The argument in this place, a number.
fn number(place: usize, default: usize) -> usize {
    std::env::args().nth(place).map_or(default, |text| text.parse().expect("a number"))
}

#[cfg(feature = "pymalloc")]
mod profiler {
    use pymalloc::trace::{self, Config};

    #[global_allocator]
    static GLOBAL: pymalloc::Pymalloc = pymalloc::Pymalloc::new();

    pub fn start(mode: &str) -> Box<dyn Fn()> {
        let config = match mode.split_once('=') {
            None => return Box::new(|| ()),
            Some(("frames", frames)) => Config::new().frames(frames.parse().expect("a number")),
            Some(("every", bytes)) => Config::new().sample_every(bytes.parse().expect("a number")),
            _ => panic!("modes: off, frames=N, every=BYTES"),
        };
        trace::start(config).expect("starts");
        Box::new(|| {
            let traced = trace::traced_memory();
            let overhead = trace::overhead_bytes();
            eprintln!("traced {}, at most {}; overhead {overhead}", traced.bytes_live, traced.bytes_peak);
        })
    }
}

#[cfg(feature = "dhat")]
mod profiler {
    #[global_allocator]
    static GLOBAL: dhat::Alloc = dhat::Alloc;

    pub fn start(mode: &str) -> Box<dyn Fn()> {
        let profiler = match mode.split_once('=') {
            None => return Box::new(|| ()),
            Some(("frames", frames)) => {
                dhat::Profiler::builder().testing().trim_backtraces(Some(frames.parse().expect("a number"))).build()
            }
            _ => panic!("modes: off, frames=N"),
        };
        Box::new(move || {
            let _ = &profiler;
            let stats = dhat::HeapStats::get();
            eprintln!("traced {}, at most {}", stats.curr_bytes, stats.max_bytes);
        })
    }
}

#[cfg(feature = "jemalloc")]
mod profiler {
    #[global_allocator]
    static GLOBAL: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

    /// Configured by `_RJEM_MALLOC_CONF`, as jemalloc is.
    pub fn start(_mode: &str) -> Box<dyn Fn()> {
        Box::new(|| ())
    }
}

#[cfg(not(any(feature = "pymalloc", feature = "dhat", feature = "jemalloc")))]
mod profiler {
    pub fn start(_mode: &str) -> Box<dyn Fn()> {
        Box::new(|| ())
    }
}

fn rss() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    text.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).expect("numbers") * 4096
}

/// Calls itself, so that stacks are as deep as a program's.
#[inline(never)]
fn at_depth<R>(depth: usize, body: &mut dyn FnMut() -> R) -> R {
    if depth == 0 { body() } else { black_box(at_depth(depth - 1, body)) }
}

fn main() {
    let mode = std::env::args().nth(1).unwrap_or_else(|| "off".to_owned());
    let (blocks, rounds) = (number(2, BLOCKS), number(3, ROUNDS));
    let report = profiler::start(&mode);
    let mut live: Vec<Box<[u64; 6]>> = Vec::with_capacity(blocks);
    let mut nanos: Vec<f64> = Vec::new();
    let before = rss();
    for round in 0..rounds {
        let start = Instant::now();
        at_depth(20, &mut || {
            for number in 0..blocks {
                live.push(black_box(Box::new([number as u64; 6])));
            }
        });
        if round == 0 {
            let bytes = (rss() - before) as f64 / blocks as f64;
            println!("{mode}: {bytes:.1} bytes of memory for each live block of 48");
            report();
        }
        live.clear();
        nanos.push(start.elapsed().as_nanos() as f64 / blocks as f64);
    }
    nanos.sort_by(f64::total_cmp);
    println!("{mode}: {:.0} ns an allocation and its free (median of {rounds} rounds)", nanos[rounds / 2]);
}
