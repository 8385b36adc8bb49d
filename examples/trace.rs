//! Which functions hold the memory: a small program under the tracer.
//!
//! `cargo run --features flamegraph --example trace -- [FOLDER]` builds an index of this project's documents, drops a
//! part of it, and prints the largest holders and the largest changes. It writes `heap.pb.gz` (for `go tool pprof`),
//! `heap.svg` (a flame graph), `heap.txt` (collapsed stacks) and `heap-map.svg` (a picture of the heap) to the folder,
//! by default the current one.

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};

use pymalloc::trace::{self, By, Config, Session};

#[global_allocator]
static GLOBAL: pymalloc::Pymalloc = pymalloc::Pymalloc::new();

/// The lines of the documents, and where each word occurs in them.
#[derive(Default)]
struct Index {
    lines: Vec<String>,
    places: HashMap<String, Vec<u32>>,
    by_length: BTreeMap<usize, Vec<String>>,
}

impl Index {
    fn add_document(&mut self, text: &str) {
        for line in text.lines() {
            self.add_line(line);
        }
    }

    fn add_line(&mut self, line: &str) {
        let number = u32::try_from(self.lines.len()).unwrap_or(u32::MAX);
        self.lines.push(line.to_owned());
        for word in line.split(|letter: char| !letter.is_alphanumeric()).filter(|word| !word.is_empty()) {
            self.add_word(word, number);
        }
    }

    fn add_word(&mut self, word: &str, line: u32) {
        match self.places.get_mut(word) {
            Some(places) => places.push(line),
            None => {
                self.by_length.entry(word.len()).or_default().push(word.to_owned());
                self.places.insert(word.to_owned(), vec![line]);
            }
        }
    }

    fn forget_lines(&mut self) {
        self.lines = Vec::new();
    }
}

fn documents(folder: &Path, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            documents(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
    found.sort();
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args().nth(1).map_or_else(|| PathBuf::from("."), PathBuf::from);
    let mut files = Vec::new();
    documents(Path::new("docs"), &mut files)?;

    let session = Session::start(Config::new())?;
    let mut index = Index::default();
    for file in &files {
        index.add_document(&std::fs::read_to_string(file)?);
    }
    // Drawn before the tracer looks up names, because that changes the heap.
    std::fs::write(folder.join("heap-map.svg"), pymalloc::heap_map().to_svg())?;
    trace::reset_peak();
    let full = trace::take_snapshot_with(|done, total| {
        if done % 100 == 0 || done == total {
            eprint!("\rnames of {done} of {total} frames");
            // Progress is for people: nothing is lost if it can't be shown.
            drop(std::io::stderr().flush());
        }
    })?;
    eprintln!();
    index.forget_lines();
    let less = trace::take_snapshot()?;
    let (traced, overhead) = (trace::traced_memory(), trace::overhead_bytes());
    session.stop();

    println!("{} words of {} documents\n", index.places.len(), files.len());
    println!("[ Top 8 lines ]\n{}", full.statistics(By::Line).top(8));
    println!("[ What changed when the lines were dropped ]\n{}", less.compare_to(&full, By::Function).top(4));
    println!("traced {} bytes, at most {}; the tracer itself uses {overhead}", traced.bytes_live, traced.bytes_peak);

    full.save(folder.join("heap.pb.gz"))?;
    full.save_flame_graph(folder.join("heap.svg"), "Who holds the memory: an index of documents")?;
    full.save_collapsed(folder.join("heap.txt"))?;
    println!("wrote heap.pb.gz, heap.svg, heap.txt and heap-map.svg to {}", folder.display());
    Ok(())
}
