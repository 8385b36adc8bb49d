//! Names from a module's file. They are for modules that may be unloaded, so that another may lie at their place.

use std::io::Read;
use std::path::{Path, PathBuf};

use addr2line::{Loader, demangle_auto};
use object::{Object, ReadCache};

use super::modules;
use crate::trace::record::loaded::{self, FIRST_BYTES, Number};

/// A module's file, open for look-ups.
pub(in crate::trace) struct File {
    loader: Loader,
    /// The load bias: an address in memory less its address in the file.
    base: usize,
}

/// A call: its function, its file and its line, as far as they are known.
pub(in crate::trace) struct Call {
    pub(in crate::trace) function: Option<String>,
    pub(in crate::trace) file: Option<PathBuf>,
    pub(in crate::trace) line: u32,
}

impl File {
    /// The file of a module, or the one with its debug information; `None` if another file has the name by now.
    pub(in crate::trace) fn of(number: Number) -> Option<Self> {
        let particulars = loaded::particulars(number)?;
        let id = particulars.build_id();
        let own = PathBuf::from(modules::path_of(number));
        // A regular file only: opening a pipe that has the name by now may wait for ever.
        let is_own = own.is_file() && (!id.is_empty() || begins_as(&own, number));
        Self::open(is_own.then_some(own), id, particulars.base)
    }

    /// Opens the file with a module's debug information, or else the module's own file: the first that has this build
    /// id.
    ///
    /// `own` is known to exist, if it is given; `base` is the module's load bias.
    pub(in crate::trace) fn open(own: Option<PathBuf>, id: &[u8], base: usize) -> Option<Self> {
        let candidates = [debug_file(id), own];
        let open = |path: PathBuf| {
            let loader = Loader::new(&path).ok()?;
            is_of(&path, id).then_some(loader)
        };
        let loader = candidates.into_iter().flatten().find_map(open)?;
        Some(Self { loader, base })
    }

    /// The call that an address belongs to, preceded by the calls inlined into it: innermost first.
    pub(in crate::trace) fn calls(&self, address: usize) -> Vec<Call> {
        let place = address.wrapping_sub(self.base) as u64;
        let symbol = self.loader.find_symbol(place);
        let mut calls = Vec::new();
        if let Ok(mut frames) = self.loader.find_frames(place) {
            while let Ok(Some(frame)) = frames.next() {
                let name = frame.function.and_then(|name| Some(name.demangle().ok()?.into_owned()));
                calls.push(Call {
                    function: name,
                    file: frame.location.as_ref().and_then(|location| location.file).map(PathBuf::from),
                    line: frame.location.and_then(|location| location.line).unwrap_or(0),
                });
            }
        }
        if calls.is_empty() && symbol.is_some() {
            calls.push(Call { function: None, file: None, line: 0 });
        }
        // The last call is the one that the machine made: the symbol is its function.
        if let (Some(call), Some(symbol)) = (calls.last_mut(), symbol) {
            call.function.get_or_insert_with(|| demangle_auto(symbol.into(), None).into_owned());
        }
        calls
    }
}

/// The file in which a distribution keeps the debug information that it stripped off.
fn debug_file(id: &[u8]) -> Option<PathBuf> {
    let id = modules::hexadecimal(id);
    let (folder, file) = id.split_at_checked(2).filter(|(_, file)| !file.is_empty())?;
    let path = Path::new("/usr/lib/debug/.build-id").join(folder).join(format!("{file}.debug"));
    path.is_file().then_some(path)
}

/// Whether a file begins with the bytes that the module had in memory: asked for modules without a build id.
fn begins_as(path: &Path, number: Number) -> bool {
    let mut first = [0; FIRST_BYTES];
    let read = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut first));
    read.is_ok() && loaded::begins_with(number, &first)
}

/// Whether a file has this build id; if that is empty, whether the file has none.
fn is_of(path: &Path, id: &[u8]) -> bool {
    let Ok(file) = std::fs::File::open(path) else { return false };
    let cache = ReadCache::new(file);
    let Ok(file) = object::File::parse(&cache) else { return false };
    file.build_id().is_ok_and(|found| found.unwrap_or_default() == id)
}
