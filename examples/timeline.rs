//! Memory over time: a program with phases, recorded, as a page for a browser.
//!
//! `cargo run --release --features trace --example timeline -- [FOLDER]` indexes the words of this project's documents
//! and sources, counts all pairs of neighbours (a short peak), and fills a cache of which it drops a part. It prints the
//! text form, and writes `memory.timeline` and `memory.html` to the folder, by default the current one.

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use pymalloc::trace::{Recording, Timeline, TimelineConfig};

#[global_allocator]
static GLOBAL: pymalloc::Pymalloc = pymalloc::Pymalloc::new();

/// As if it waited for a network or a disk now and then.
const PAUSE: Duration = Duration::from_millis(4);

fn documents(folder: &Path, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            documents(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "md" || extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    Ok(())
}

fn read_documents(files: &[PathBuf]) -> std::io::Result<Vec<String>> {
    let read = |file: &PathBuf| {
        sleep(PAUSE);
        std::fs::read_to_string(file)
    };
    files.iter().map(read).collect()
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|letter: char| !letter.is_alphanumeric()).filter(|word| !word.is_empty())
}

fn build_index(documents: &[String]) -> HashMap<String, Vec<usize>> {
    let mut index: HashMap<String, Vec<usize>> = HashMap::new();
    for (number, text) in documents.iter().enumerate() {
        for word in words(text) {
            index.entry(word.to_owned()).or_default().push(number);
        }
        sleep(PAUSE / 2);
    }
    index
}

/// Takes a lot for a short time.
fn most_frequent_pair(documents: &[String]) -> Option<(String, usize)> {
    let mut pairs: BTreeMap<String, usize> = BTreeMap::new();
    for text in documents {
        let words: Vec<&str> = words(text).collect();
        for pair in words.windows(2) {
            *pairs.entry(format!("{} {}", pair[0], pair[1])).or_default() += 1;
        }
    }
    pairs.into_iter().max_by_key(|(_, count)| *count)
}

/// Keeps the lines of each batch: what is filled in the last half is never dropped.
fn fill_cache(documents: &[String]) -> Vec<Vec<String>> {
    let mut cache = Vec::new();
    for (batch, text) in documents.iter().cycle().take(documents.len() * 2).enumerate() {
        cache.push(text.lines().map(str::to_owned).collect());
        if batch == documents.len() {
            cache.clear();
        }
        sleep(PAUSE / 2);
    }
    cache
}

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args().nth(1).map_or_else(|| PathBuf::from("."), PathBuf::from);
    let mut files = Vec::new();
    documents(Path::new("docs"), &mut files)?;
    documents(Path::new("src"), &mut files)?;
    let file = folder.join("memory.timeline");

    let timeline = Timeline::start(&file, TimelineConfig::new().interval(Duration::from_millis(10)))?;
    let documents = read_documents(&files)?;
    let index = build_index(&documents);
    let pair = most_frequent_pair(&documents);
    sleep(PAUSE * 10);
    let cache = fill_cache(&documents);
    sleep(PAUSE * 10);
    drop(documents);
    sleep(PAUSE * 10);
    timeline.stop()?;

    let lines: usize = cache.iter().map(Vec::len).sum();
    println!("{} words, most frequent pair {pair:?}, {lines} lines in the cache\n", index.len());
    let recording = Recording::load(&file)?;
    print!("{recording}");
    recording.save_page(folder.join("memory.html"))?;
    println!("\nwrote memory.timeline and memory.html to {}", folder.display());
    Ok(())
}
