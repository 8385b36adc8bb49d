//! Turns return addresses into frames, by the debug information of the running program and the libraries that it
//! loaded.
//!
//! A name belongs to an address and to the module that was there (`loaded`), so names are remembered by both. The
//! `backtrace` crate reads the modules that are never unloaded; it lists the loaded modules only once. All other
//! modules, be they still loaded or not, are read from their files (`files`).
//!
//! # Fork
//! `SYMBOLS` is held during each single look-up, so that a fork never leaves the debug information half read in the
//! child. A fork waits for one look-up at most. `SYMBOLS` is also held while the loader's list of modules is walked,
//! because glibc does not release the lock of that list in a child.

use core::ops::Range;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::files::{Call, File};
use super::modules::{self, Module};
use super::traceback::Frame;
use crate::base::text::Text;
use crate::protocols::lock::Lock;
use crate::trace::record::loaded::{self, Number};

/// What is known of the return addresses seen so far.
#[derive(Default)]
struct Known {
    /// By address and module (`loaded::word`).
    frames: HashMap<usize, Arc<[Frame]>>,
    /// Of modules that may be unloaded; `None` if the file is not there, or another one has its name.
    files: HashMap<Number, Option<File>>,
    /// Names, each kept once.
    names: HashSet<Arc<str>>,
}

static SYMBOLS: Lock<Option<Known>> = Lock::new(None);

/// Looks up return addresses, and remembers what it found.
pub(in crate::trace) struct Symbols {
    directory: PathBuf,
    /// The preload library's code: all of its frames are the allocator's.
    preload: Option<Range<u64>>,
}

impl Symbols {
    pub(in crate::trace) fn new() -> Self {
        let preload = SYMBOLS.lock().with(|_| modules::of_preload());
        Self { directory: std::env::current_dir().unwrap_or_default(), preload }
    }

    /// The call that returns to an address (with its module), preceded by the calls inlined into it: innermost first.
    /// Empty if nothing is known.
    pub(in crate::trace) fn look_up(&self, word: usize) -> Arc<[Frame]> {
        let address = loaded::address_of(word);
        if self.preload.as_ref().is_some_and(|code| code.contains(&(address as u64))) {
            return [Frame { function: "pymalloc::preload".into(), ..Frame::unknown() }].into();
        }
        SYMBOLS.lock().with(|known| {
            let known = known.get_or_insert_default();
            if let Some(frames) = known.frames.get(&word) {
                return Arc::clone(frames);
            }
            let frames = self.resolve(word, known);
            known.frames.insert(word, Arc::clone(&frames));
            frames
        })
    }

    fn resolve(&self, word: usize, known: &mut Known) -> Arc<[Frame]> {
        let Known { names, files, .. } = known;
        let mut keep = |name: &str| match names.get(name) {
            Some(kept) => Arc::clone(kept),
            None => {
                let kept: Arc<str> = name.into();
                names.insert(Arc::clone(&kept));
                kept
            }
        };
        let mut frames = Vec::new();
        let mut push = |call: Call| {
            let unknown = Frame::unknown();
            let file = call.file.map(|file| shorten(&file, &self.directory));
            frames.push(Frame {
                file: keep(file.as_deref().unwrap_or(&unknown.file)),
                line: call.line,
                function: keep(call.function.as_deref().unwrap_or(&unknown.function)),
            });
        };
        // One less than the return address: the call itself, not the instruction after it, which may belong to another
        // line or another function.
        let address = loaded::address_of(word) - 1;
        let number = loaded::number_of(word);
        if number == Number::NONE || loaded::stays(number) {
            backtrace::resolve(core::ptr::without_provenance_mut(address), |symbol| {
                push(Call {
                    function: symbol.name().map(|name| format!("{name:#}")),
                    file: symbol.filename().map(Path::to_owned),
                    line: symbol.lineno().unwrap_or(0),
                });
            });
        } else if let Some(file) = files.entry(number).or_insert_with(|| File::of(number)) {
            file.calls(address).into_iter().for_each(push);
        }
        frames.into()
    }
}

/// A source file's name, relative to `folder` if the file is in it.
pub(super) fn shorten(file: &Path, folder: &Path) -> String {
    let file = file.strip_prefix(folder).unwrap_or(file).to_string_lossy();
    // The standard library's files begin with `/rustc/` and a commit.
    let library = file.strip_prefix("/rustc/").and_then(|rest| rest.split_once('/'));
    library.map_or(&*file, |(_, file)| file).to_owned()
}

/// Prints the frames of an address (with its module), one per line, if they were looked up before. Returns whether it
/// printed them. Prints nothing while another thread looks one up. Allocates nothing.
pub(in crate::trace) fn print_known(word: usize, write: &mut dyn FnMut(&str)) -> bool {
    let Some(mut known) = SYMBOLS.try_lock() else { return false };
    known.with(|known| {
        let Some(frames) = known.as_ref().and_then(|known| known.frames.get(&word)) else { return false };
        for frame in frames.iter().filter(|frame| !frame.is_allocator()) {
            let mut line = Text::<24>::new();
            line.push_number(frame.line() as usize);
            let line = core::str::from_utf8(line.bytes()).unwrap_or("?");
            for text in ["  File \"", frame.file(), "\", line ", line, ", in ", frame.function(), "\n"] {
                write(text);
            }
        }
        !frames.is_empty()
    })
}

/// Runs `body`, which walks the loader's list of modules, so that no fork happens meanwhile.
#[cfg(feature = "graph")]
pub(in crate::trace) fn with_loader<R>(body: impl FnOnce() -> R) -> R {
    SYMBOLS.lock().with(|_| body())
}

/// The modules of the program.
pub(in crate::trace) fn modules() -> Vec<Module> {
    SYMBOLS.lock().with(|_| modules::all())
}

/// Frees the debug information read so far, which takes most of the tracer's memory. The names found stay known.
pub(in crate::trace) fn release_debug_information() {
    SYMBOLS.lock().with(|known| {
        backtrace::clear_symbol_cache();
        if let Some(known) = known {
            known.files = HashMap::new();
        }
    });
}

/// Forgets everything.
pub(in crate::trace) fn clear() {
    SYMBOLS.lock().with(|known| {
        *known = None;
        backtrace::clear_symbol_cache();
    });
}

/// Takes the lock, for a fork.
pub(in crate::trace) fn acquire() {
    let _acquired = SYMBOLS.acquire();
}

/// Frees the lock.
///
/// # Safety
/// After [`acquire`], on the same thread or in its forked child.
pub(in crate::trace) unsafe fn release() {
    // SAFETY: the caller took it.
    unsafe { SYMBOLS.release() };
}
