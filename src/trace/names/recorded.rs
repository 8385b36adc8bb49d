//! Turns recorded return addresses into frames, by the files of the modules that they were in. Any process can do so,
//! as long as these files have not changed; their build ids tell.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use super::files::File;
use super::modules::{Module, hexadecimal};
use super::symbols::shorten;
use super::traceback::Frame;
use crate::trace::record::loaded;

/// A module, as it was recorded.
#[derive(Debug, Clone)]
pub(in crate::trace) struct RecordedModule {
    pub(in crate::trace) base: usize,
    pub(in crate::trace) code: (u64, u64),
    pub(in crate::trace) code_offset: u64,
    /// Whether it is the allocator's: then none of its frames belongs to the program.
    pub(in crate::trace) is_allocator: bool,
    pub(in crate::trace) build_id: Vec<u8>,
    pub(in crate::trace) file: String,
}

impl RecordedModule {
    pub(in crate::trace) fn module(&self) -> Module {
        Module {
            start: self.code.0,
            end: self.code.1,
            file_offset: self.code_offset,
            file: self.file.clone(),
            build_id: hexadecimal(&self.build_id),
        }
    }
}

/// Recorded modules by their numbers, and the names found so far.
#[derive(Default)]
pub(in crate::trace) struct Recorded {
    /// The program's working directory when the recording began: names of source files are relative to it.
    pub(in crate::trace) folder: PathBuf,
    pub(in crate::trace) modules: HashMap<u16, RecordedModule>,
    /// `None` if the file is not there, or another one has its name by now.
    files: HashMap<u16, Option<File>>,
    names: HashSet<Arc<str>>,
    frames: HashMap<usize, Arc<[Frame]>>,
}

impl Recorded {
    /// The call that returns to an address (with its module), preceded by the calls inlined into it: innermost first.
    /// Empty if nothing is known.
    pub(in crate::trace) fn look_up(&mut self, word: usize) -> Arc<[Frame]> {
        if let Some(known) = self.frames.get(&word) {
            return Arc::clone(known);
        }
        let frames = self.resolve(word);
        self.frames.insert(word, Arc::clone(&frames));
        frames
    }

    fn resolve(&mut self, word: usize) -> Arc<[Frame]> {
        let number = loaded::number_of(word).get();
        let Some(module) = self.modules.get(&number) else { return [].into() };
        if module.is_allocator {
            return [Frame { function: "pymalloc::preload".into(), ..Frame::unknown() }].into();
        }
        let open = || {
            // A regular file only: opening a pipe that has the name by now may wait for ever.
            let own = Some(PathBuf::from(&module.file)).filter(|own| own.is_file());
            File::open(own, &module.build_id, module.base)
        };
        let Some(file) = self.files.entry(number).or_insert_with(open) else { return [].into() };
        // One less than the return address: the call itself, not the instruction after it.
        let calls = file.calls(loaded::address_of(word).wrapping_sub(1));
        let unknown = Frame::unknown();
        let frame = |call: super::files::Call| {
            let source = call.file.map(|file| shorten(&file, &self.folder));
            Frame {
                file: keep(&mut self.names, source.as_deref().unwrap_or(&unknown.file)),
                line: call.line,
                function: keep(&mut self.names, call.function.as_deref().unwrap_or(&unknown.function)),
            }
        };
        calls.into_iter().map(frame).collect()
    }

    /// Frees the debug information that was read; the names found stay known.
    pub(in crate::trace) fn release_debug_information(&mut self) {
        self.files = HashMap::new();
    }
}

/// The one copy of a name that is kept.
fn keep(names: &mut HashSet<Arc<str>>, name: &str) -> Arc<str> {
    if let Some(kept) = names.get(name) {
        return Arc::clone(kept);
    }
    let kept: Arc<str> = name.into();
    names.insert(Arc::clone(&kept));
    kept
}
