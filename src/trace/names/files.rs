//! Names from a module's file: for modules that may be unloaded, and others loaded at their place.

use std::io::Read;
use std::path::{Path, PathBuf};

use addr2line::{Loader, demangle_auto};
use object::{Object, ReadCache};

use super::modules;
use crate::trace::record::loaded::{self, FIRST_BYTES, Number};

/// A module's file, read.
pub(in crate::trace) struct File {
    loader: Loader,
    /// What the addresses in the file are moved by.
    base: usize,
}

/// A call: its function, its file and its line, as far as they are known.
pub(in crate::trace) struct Call {
    pub(in crate::trace) function: Option<String>,
    pub(in crate::trace) file: Option<PathBuf>,
    pub(in crate::trace) line: u32,
}

impl File {
    /// The file of a module, or the one with its debug information; `None` if it is another file by now.
    pub(in crate::trace) fn of(number: Number) -> Option<Self> {
        let particulars = loaded::particulars(number)?;
        let id = particulars.build_id();
        let own = PathBuf::from(modules::path_of(number));
        // Opening what is no file (a pipe that got the name) may wait for ever.
        let is_own = own.is_file() && (!id.is_empty() || begins_as(&own, number));
        let candidates = [debug_file(id), is_own.then_some(own)];
        let open = |path: PathBuf| {
            let loader = Loader::new(&path).ok()?;
            is_of(&path, id).then_some(loader)
        };
        let loader = candidates.into_iter().flatten().find_map(open)?;
        Some(Self { loader, base: particulars.base })
    }

    /// The call that an address is in, after what was inlined into it, innermost first.
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
        // The function that the machine called is the last.
        if let (Some(call), Some(symbol)) = (calls.last_mut(), symbol) {
            call.function.get_or_insert_with(|| demangle_auto(symbol.into(), None).into_owned());
        }
        calls
    }
}

/// Where distributions put what they strip off.
fn debug_file(id: &[u8]) -> Option<PathBuf> {
    let id = modules::hexadecimal(id);
    let (folder, file) = id.split_at_checked(2).filter(|(_, file)| !file.is_empty())?;
    let path = Path::new("/usr/lib/debug/.build-id").join(folder).join(format!("{file}.debug"));
    path.is_file().then_some(path)
}

/// Whether a file's first bytes are those that were in memory: of a module without a build id.
fn begins_as(path: &Path, number: Number) -> bool {
    let mut first = [0; FIRST_BYTES];
    let read = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut first));
    read.is_ok() && loaded::begins_with(number, &first)
}

/// Whether a file has this build id; none, if that is empty.
fn is_of(path: &Path, id: &[u8]) -> bool {
    let Ok(file) = std::fs::File::open(path) else { return false };
    let cache = ReadCache::new(file);
    let Ok(file) = object::File::parse(&cache) else { return false };
    file.build_id().is_ok_and(|found| found.unwrap_or_default() == id)
}
