//! Counts the words of files and folders in several threads.
//!
//! Every word is a `String` of its own until it is counted, and every thread has a map of its own:
//! a typical program, which leaves speed to its allocator.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, ErrorKind, IsTerminal, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use pymalloc::Pymalloc;

#[global_allocator]
static GLOBAL: Pymalloc = Pymalloc::new();

const MEGABYTE: u64 = 1_000_000;
/// Bytes that a thread reads at a time. Several threads count a larger file.
const PIECE_BYTES: u64 = 4 * MEGABYTE;

const HELP: &str = "\
Counts the words of files and folders.

usage: wordfreq [OPTION]... [FILE or FOLDER]...

  --threads N         count in N threads (default: as many as the machine has)
  --top N             print the N most frequent words (default: 20)
  --generate MB FILE  first write MB megabytes of made-up text to FILE, over what is there
  --help              print this

Without a file or folder, the docs/ and src/ of this project are counted.
";

type Counts = HashMap<String, u64>;
/// An error that the user can mend, in one line.
type Failure = String;

struct Options {
    threads: usize,
    top: usize,
    generate: Option<(u64, PathBuf)>,
    paths: Vec<PathBuf>,
}

enum Command {
    Help,
    Count(Options),
}

fn parse(mut arguments: impl Iterator<Item = OsString>) -> Result<Command, Failure> {
    let mut options = Options {
        threads: thread::available_parallelism().map_or(1, Into::into),
        top: 20,
        generate: None,
        paths: Vec::new(),
    };
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("--help" | "-h") => return Ok(Command::Help),
            Some("--threads") => options.threads = number(&mut arguments, "--threads", 1)?,
            Some("--top") => options.top = number(&mut arguments, "--top", 0)?,
            Some("--generate") => {
                let megabytes = number(&mut arguments, "--generate", 1)?;
                let file = arguments.next().ok_or("--generate needs a number and a file")?;
                options.generate = Some((megabytes as u64, file.into()));
            }
            Some("--") => options.paths.extend(arguments.by_ref().map(PathBuf::from)),
            Some(unknown) if unknown.starts_with('-') => {
                return Err(format!("unknown option {unknown}; try --help"));
            }
            _ => options.paths.push(argument.into()),
        }
    }
    if let Some((_, file)) = &options.generate {
        options.paths.insert(0, file.clone());
    }
    if options.paths.is_empty() {
        let project = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
        let folders = ["docs", "src"].map(|folder| project.join(folder));
        options.paths.extend(folders.into_iter().filter(|folder| folder.exists()));
    }
    if options.paths.is_empty() {
        return Err("the project's own folders are not there; name a file or folder".into());
    }
    Ok(Command::Count(options))
}

fn number(arguments: &mut impl Iterator<Item = OsString>, option: &str, least: usize) -> Result<usize, Failure> {
    // A limit at which a file's length in bytes still fits into a number, even if `number` is in megabytes.
    let limit = 1_000_000_000;
    let argument = arguments.next().and_then(|argument| argument.into_string().ok());
    let number = argument.and_then(|argument| argument.parse().ok());
    number
        .filter(|number| (least..=limit).contains(number))
        .ok_or_else(|| format!("{option} needs a whole number from {least} to {limit}"))
}

/// A progress line on the terminal, for work that takes longer than a few seconds.
struct Progress {
    started: Instant,
    printed: Option<Instant>,
}

impl Progress {
    fn start() -> Self {
        Self { started: Instant::now(), printed: None }
    }

    fn report(&mut self, what: &str, done_bytes: u64, all_bytes: u64) {
        let last = self.printed.unwrap_or(self.started + Duration::from_secs(2));
        if last.elapsed() >= Duration::from_millis(500) && io::stderr().is_terminal() {
            eprint!("\r{what}: {} of {} MB ", done_bytes / MEGABYTE, all_bytes / MEGABYTE);
            self.printed = Some(Instant::now());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.printed.is_some() {
            eprint!("\r\x1b[K");
        }
    }
}

/// xorshift64: pseudorandom numbers, the same in each run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[(self.next() % items.len() as u64) as usize]
    }

    /// From 0 to just below 1.
    fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

fn made_up_word(rank: u64, random: &mut Random) -> String {
    // Frequent words are short, in every language.
    let syllables = 1 + u64::from(rank.checked_ilog10().unwrap_or(0)) / 2 + random.next() % 3;
    (0..syllables)
        .flat_map(|_| {
            [
                random.pick(&["b", "d", "f", "k", "l", "m", "r", "s", "st", "t"]),
                random.pick(&["a", "e", "i", "o", "u", "é"]),
            ]
        })
        .collect()
}

/// Writes made-up text. As in real text, the word of rank n occurs with a frequency proportional to 1/n.
fn generate(megabytes: u64, path: &Path) -> Result<(), Failure> {
    let failed = |error: io::Error| format!("cannot write {}: {error}", path.display());
    let mut random = Random(0x5EED);
    let vocabulary: Vec<String> = (0..100_000).map(|rank| made_up_word(rank, &mut random)).collect();
    let mut file = File::create(path).map_err(failed)?;
    let mut progress = Progress::start();
    for written in 0..megabytes {
        let mut text = String::new();
        while text.len() < MEGABYTE as usize {
            // With a uniform logarithm, the rank's density is proportional to 1/n.
            let rank = (vocabulary.len() as f64).powf(random.fraction()) as usize - 1;
            let word = &vocabulary[rank];
            if text.len() + word.len() < MEGABYTE as usize {
                text += word;
            }
            text += random.pick(&[" ", " ", " ", " ", " ", " ", " ", " ", " ", " ", "\n"]);
        }
        file.write_all(text.as_bytes()).map_err(failed)?;
        progress.report("generated", written * MEGABYTE, megabytes * MEGABYTE);
    }
    Ok(())
}

/// A part of a file. The words that begin in the part belong to it.
struct Piece<'a> {
    path: &'a Path,
    start: u64,
    end: u64,
}

fn cannot_read(path: &Path, error: &io::Error) -> Failure {
    format!("cannot read {}: {error}", path.display())
}

/// Collects the files below `path` with their lengths.
fn find_files(path: &Path, found: &mut Vec<(PathBuf, u64)>) -> Result<(), Failure> {
    let failed = |error: io::Error| cannot_read(path, &error);
    let metadata = fs::metadata(path).map_err(failed)?;
    if metadata.is_file() {
        found.push((path.to_owned(), metadata.len()));
        return Ok(());
    }
    if !metadata.is_dir() {
        return Err(format!("{} is neither a file nor a folder", path.display()));
    }
    let mut entries = fs::read_dir(path).map_err(failed)?.collect::<io::Result<Vec<_>>>().map_err(failed)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        // Symbolic links could lead in circles, and reading a pipe could take for ever.
        let kind = entry.file_type().map_err(failed)?;
        if kind.is_file() || kind.is_dir() {
            find_files(&entry.path(), found)?;
        }
    }
    Ok(())
}

fn cut<'a>(path: &'a Path, bytes: u64) -> impl Iterator<Item = Piece<'a>> {
    (0..bytes.div_ceil(PIECE_BYTES)).map(move |number| {
        let start = number * PIECE_BYTES;
        Piece { path, start, end: bytes.min(start + PIECE_BYTES) }
    })
}

impl Piece<'_> {
    /// Reads the piece: its words and the text between them.
    fn read(&self) -> io::Result<Vec<u8>> {
        let mut file = BufReader::new(File::open(self.path)?);
        // The byte before shows whether a word begins at the start.
        let from = self.start.saturating_sub(1);
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.by_ref().take(self.end - from).read_to_end(&mut bytes)?;
        if self.start > 0 {
            let Some(gap) = bytes.iter().position(u8::is_ascii_whitespace) else {
                return Ok(Vec::new());
            };
            bytes.drain(..gap);
        }
        if bytes.last().is_some_and(|last| !last.is_ascii_whitespace()) {
            read_to_whitespace(&mut file, &mut bytes)?;
        }
        Ok(bytes)
    }
}

fn read_to_whitespace(file: &mut impl BufRead, bytes: &mut Vec<u8>) -> io::Result<()> {
    loop {
        let next = file.fill_buf()?;
        let gap = next.iter().position(u8::is_ascii_whitespace);
        let taken = gap.unwrap_or(next.len());
        bytes.extend_from_slice(&next[..taken]);
        file.consume(taken);
        if gap.is_some() || taken == 0 {
            return Ok(());
        }
    }
}

/// The pieces that the threads take one after the other.
struct Work<'a> {
    pieces: Vec<Piece<'a>>,
    next: AtomicUsize,
    read_bytes: AtomicU64,
}

impl Work<'_> {
    fn take(&self) -> Option<&Piece<'_>> {
        // Relaxed, because only the number is handed over.
        self.pieces.get(self.next.fetch_add(1, Ordering::Relaxed))
    }

    fn stop(&self) {
        self.next.store(self.pieces.len(), Ordering::Relaxed);
    }

    fn count(&self) -> Result<Counts, Failure> {
        let mut counts = Counts::new();
        while let Some(piece) = self.take() {
            let bytes = piece.read().map_err(|error| cannot_read(piece.path, &error))?;
            let text = String::from_utf8_lossy(&bytes);
            for word in text.split(|letter: char| !letter.is_alphanumeric()) {
                if !word.is_empty() {
                    *counts.entry(word.to_lowercase()).or_insert(0) += 1;
                }
            }
            self.read_bytes.fetch_add(piece.end - piece.start, Ordering::Relaxed);
        }
        Ok(counts)
    }

    fn count_in_threads(&self, threads: usize, all_bytes: u64) -> Result<Counts, Failure> {
        let mut counts = Counts::new();
        let mut progress = Progress::start();
        let (sender, receiver) = channel();
        thread::scope(|scope| {
            for number in 0..threads {
                let sender = sender.clone();
                let started = thread::Builder::new().spawn_scoped(scope, move || sender.send(self.count()));
                if let Err(error) = started {
                    self.stop();
                    return Err(format!("cannot start thread {number} of {threads}: {error}"));
                }
            }
            drop(sender);
            loop {
                match receiver.recv_timeout(Duration::from_millis(500)) {
                    Ok(Ok(found)) => {
                        for (word, count) in found {
                            *counts.entry(word).or_insert(0) += count;
                        }
                    }
                    Ok(Err(failure)) => {
                        self.stop();
                        return Err(failure);
                    }
                    Err(RecvTimeoutError::Timeout) => {
                        progress.report("read", self.read_bytes.load(Ordering::Relaxed), all_bytes);
                    }
                    Err(RecvTimeoutError::Disconnected) => return Ok(counts),
                }
            }
        })
    }
}

fn run(options: &Options) -> Result<(), Failure> {
    if let Some((megabytes, file)) = &options.generate {
        generate(*megabytes, file)?;
    }
    let started = Instant::now();
    let mut files = Vec::new();
    for path in &options.paths {
        find_files(path, &mut files)?;
    }
    let all_bytes = files.iter().map(|(_, bytes)| bytes).sum();
    let work = Work {
        pieces: files.iter().flat_map(|(path, bytes)| cut(path, *bytes)).collect(),
        next: AtomicUsize::new(0),
        read_bytes: AtomicU64::new(0),
    };
    let threads = options.threads.min(work.pieces.len());
    let counts = work.count_in_threads(threads, all_bytes)?;
    let seconds = started.elapsed().as_secs_f64();

    let mut ranking: Vec<(&String, u64)> = counts.iter().map(|(word, &count)| (word, count)).collect();
    ranking.sort_by_key(|&(word, count)| (std::cmp::Reverse(count), word));
    let mut report = String::new();
    for (word, count) in ranking.iter().take(options.top) {
        report += &format!("{count:>12}  {word}\n");
    }
    let words: u64 = counts.values().sum();
    let megabytes = all_bytes as f64 / MEGABYTE as f64;
    report += &format!(
        "{words} words, {} different; files: {}; threads: {threads}; {megabytes:.1} MB read in {seconds:.3} s\n{}\n",
        counts.len(),
        files.len(),
        pymalloc::stats(),
    );
    print(&report)
}

fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        // The reader has closed the pipe: it has read enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(|error| format!("cannot write the result: {error}")),
    }
}

fn main() -> ExitCode {
    let result = parse(std::env::args_os().skip(1)).and_then(|command| match command {
        Command::Help => print(HELP),
        Command::Count(options) => run(&options),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("wordfreq: {failure}");
            ExitCode::from(2)
        }
    }
}
