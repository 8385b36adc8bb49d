//! When a pool is worth it: buffers that must be clean. Threads count the distinct pairs of neighbouring bytes in each
//! line of the allocator's sources and documents, with a table of 64 KiB made anew for each line, and with one from a
//! pool, whose reset cleans only what the line has used.
//!
//! ```sh
//! cargo run --release -p pymalloc-object-pool --example pool_buffers
//! ```

use std::fs;
use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use pymalloc::Pymalloc;
use pymalloc_object_pool::ObjectPool;

#[global_allocator]
static GLOBAL: Pymalloc = Pymalloc::new();

const THREADS: usize = 4;
/// So often are all lines looked at.
const PASSES: usize = 20;

/// Which of all pairs of bytes were seen.
struct Pairs {
    seen: Vec<bool>,
    used: Vec<u16>,
}

impl Pairs {
    fn new() -> Self {
        Self { seen: vec![false; 1 << 16], used: Vec::new() }
    }

    fn clear(&mut self) {
        for pair in self.used.drain(..) {
            self.seen[usize::from(pair)] = false;
        }
    }

    fn distinct(&mut self, line: &str) -> usize {
        for bytes in line.as_bytes().windows(2) {
            let pair = u16::from_be_bytes([bytes[0], bytes[1]]);
            if !std::mem::replace(&mut self.seen[usize::from(pair)], true) {
                self.used.push(pair);
            }
        }
        self.used.len()
    }
}

/// The text of all sources and documents.
fn read(folder: &Path, text: &mut String) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            read(&path, text)?;
        } else if path.extension().is_some_and(|extension| extension == "rs" || extension == "md") {
            text.push_str(&fs::read_to_string(path)?);
        }
    }
    Ok(())
}

/// Shares the lines out among the threads; the sum over all lines, and the time.
fn run(lines: &[&str], distinct: impl Fn(&str) -> usize + Sync) -> (usize, Duration) {
    let started = Instant::now();
    let sum = thread::scope(|scope| {
        let shares = lines.chunks(lines.len().div_ceil(THREADS).max(1));
        let threads: Vec<_> =
            shares.map(|share| scope.spawn(|| share.iter().map(|line| distinct(line)).sum::<usize>())).collect();
        threads.into_iter().map(|thread| thread.join().expect("no line panics")).sum()
    });
    (sum, started.elapsed())
}

fn main() -> io::Result<()> {
    let mut text = String::new();
    for folder in ["src", "docs", "examples"] {
        read(&Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join(folder), &mut text)?;
    }
    let lines: Vec<&str> = std::iter::repeat_n(text.lines(), PASSES).flatten().collect();
    println!("{} lines, {THREADS} threads", lines.len());

    let (fresh, time) = run(&lines, |line| Pairs::new().distinct(line));
    println!("a new table for each line:  {fresh} pairs in {time:.1?}");

    let tables = ObjectPool::builder(Pairs::new).reset(Pairs::clear).max_idle(2 * THREADS).build().expect("valid");
    let (pooled, time) = run(&lines, |line| tables.acquire().distinct(line));
    println!("a table from the pool:      {pooled} pairs in {time:.1?}");
    assert_eq!(fresh, pooled);
    println!("the pool: {}", tables.stats());
    Ok(())
}
