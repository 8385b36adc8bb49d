//! Draws the heap of a real workload, before and after most of it is dropped.
//!
//! The workload is an index of the phrases of this project's documents and sources: each phrase a `String`, with the
//! list of places where it occurs. Three threads build a part each. Then every phrase that occurs only once is dropped,
//! which leaves the others scattered over the whole heap. At last, free memory is given back.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;

use pymalloc::heap_map::HeapMap;
use pymalloc::{Pymalloc, heap_map, measure};

#[global_allocator]
static GLOBAL: Pymalloc = Pymalloc::new();

const HELP: &str = "\
Draws the heap of a real workload, before and after a drop.

usage: heap_picture [FOLDER]

Writes before.svg, after.svg and purged.svg, and a page of each (.html), to FOLDER (default: target/heap-picture).
";

/// Most words of a phrase.
const PHRASE_WORDS: usize = 5;
const THREADS: usize = 3;

/// An error that the user can mend, in one line.
type Failure = String;

/// Phrases, and where each begins: the number of the file and that of the word.
type Index = HashMap<String, Vec<(u32, u32)>>;

fn find_files(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), Failure> {
    let cannot = |error| format!("cannot read {}: {error}", folder.display());
    for entry in fs::read_dir(folder).map_err(cannot)? {
        let path = entry.map_err(cannot)?.path();
        if path.is_dir() {
            find_files(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs" || extension == "md") {
            files.push(path);
        }
    }
    files.sort();
    Ok(())
}

/// A number with commas between groups of three digits.
fn commas(number: usize) -> String {
    let digits = number.to_string();
    let parts: Vec<&str> = digits.as_bytes().rchunks(3).rev().filter_map(|part| str::from_utf8(part).ok()).collect();
    parts.join(",")
}

/// The phrases of each `THREADS`th file from `first` on.
fn index(files: &[PathBuf], first: usize) -> Result<Index, Failure> {
    let mut index = Index::new();
    for (number, path) in files.iter().enumerate().skip(first).step_by(THREADS) {
        let text = fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        let words: Vec<&str> = text.split(|letter: char| !letter.is_alphanumeric()).filter(|w| !w.is_empty()).collect();
        for length in 1..=PHRASE_WORDS {
            for (place, phrase) in words.windows(length).enumerate() {
                index.entry(phrase.join(" ")).or_default().push((number as u32, place as u32));
            }
        }
    }
    Ok(index)
}

fn write(folder: &Path, name: &str, map: &HeapMap) -> Result<(), Failure> {
    for (extension, text) in [("svg", map.to_svg()), ("html", map.to_html())] {
        let path = folder.join(name).with_extension(extension);
        fs::write(&path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        println!("  {}", path.display());
    }
    Ok(())
}

fn run(folder: &Path) -> Result<(), Failure> {
    fs::create_dir_all(folder).map_err(|error| format!("cannot make {}: {error}", folder.display()))?;
    let mut files = Vec::new();
    for name in ["benches", "docs", "examples", "src", "tests"] {
        let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join(name);
        if path.exists() {
            find_files(&path, &mut files)?;
        }
    }
    println!("indexing the phrases of {} files in {THREADS} threads", files.len());
    let indexes: Result<Vec<Index>, Failure> = thread::scope(|scope| {
        let files = &files;
        let threads: Vec<_> = (0..THREADS).map(|first| scope.spawn(move || index(files, first))).collect();
        threads.into_iter().map(|thread| thread.join().map_err(|_| "a thread panicked".to_string())?).collect()
    });
    let mut indexes = indexes?;
    let phrases: usize = indexes.iter().map(Index::len).sum();
    println!("{phrases} phrases");
    write(folder, "before", &heap_map().with_title(format!("An index of {} phrases", commas(phrases))))?;
    for index in &mut indexes {
        index.retain(|_, places| places.len() > 1);
    }
    let left: usize = indexes.iter().map(Index::len).sum();
    let title = format!("The {} phrases that occur more than once", commas(left));
    write(folder, "after", &heap_map().with_title(title.clone()))?;
    let bytes = pymalloc::purge();
    write(folder, "purged", &heap_map().with_title(format!("{title}, after a purge")))?;
    println!("{left} phrases are left; purge gave {bytes} bytes back");
    let (_, freed) = measure(|| drop(indexes));
    println!("they took {} blocks of {} bytes in all", -freed.blocks_live, -freed.bytes_live);
    Ok(())
}

fn parse(mut arguments: impl Iterator<Item = OsString>) -> Result<Option<PathBuf>, Failure> {
    let folder = match arguments.next() {
        None => Path::new("target").join("heap-picture"),
        Some(word) if word == "--help" || word == "-h" => return Ok(None),
        Some(word) if word.to_string_lossy().starts_with('-') => {
            return Err(format!("unknown option {}; try --help", word.to_string_lossy()));
        }
        Some(word) => word.into(),
    };
    match arguments.next() {
        Some(_) => Err("one folder, please; try --help".to_string()),
        None => Ok(Some(folder)),
    }
}

fn main() -> ExitCode {
    let result = parse(std::env::args_os().skip(1)).and_then(|folder| match folder {
        Some(folder) => run(&folder),
        None => {
            print!("{HELP}");
            Ok(())
        }
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("heap_picture: {failure}");
            ExitCode::from(2)
        }
    }
}
