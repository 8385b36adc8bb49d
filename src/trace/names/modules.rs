//! The files whose code is in the process, or was when it allocated, and their build ids. Other programs need them to
//! name the addresses.

#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
use crate::trace::record::elf;
use crate::trace::record::loaded::{self, Number};

/// Bytes of the longest path.
const PATH_MAX: usize = 4096;

/// A file's code, with the addresses at which it is mapped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::trace) struct Module {
    pub(in crate::trace) start: u64,
    pub(in crate::trace) end: u64,
    /// Where `start` is in the file.
    pub(in crate::trace) file_offset: u64,
    pub(in crate::trace) file: String,
    /// In hexadecimal; empty if the linker made none.
    pub(in crate::trace) build_id: String,
}

impl Module {
    pub(in crate::trace) fn holds(&self, address: u64) -> bool {
        (self.start..self.end).contains(&address)
    }
}

/// The executable segments of the program and its shared libraries.
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
pub(in crate::trace) fn all() -> Vec<Module> {
    let mut modules: Vec<Module> = Vec::new();
    elf::each_loaded(&mut |number, headers, name| {
        let file = name.to_string_lossy();
        // The program itself comes first. It has no name or, linked statically with musl, a name that every program
        // has.
        let file = if number == 0 && (file.is_empty() || file == "/proc/self/exe") {
            std::env::current_exe().map(|path| path.to_string_lossy().into_owned()).unwrap_or_default()
        } else {
            file.into_owned()
        };
        let build_id = hexadecimal(headers.particulars().build_id());
        modules.extend(headers.code().map(|((start, end), file_offset)| Module {
            start: start as u64,
            end: end as u64,
            file_offset,
            file: file.clone(),
            build_id: build_id.clone(),
        }));
    });
    modules
}

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
pub(in crate::trace) fn all() -> Vec<Module> {
    Vec::new()
}

/// A module that some recorded frame is in; it may be unloaded by now.
pub(in crate::trace) fn of(number: Number) -> Option<Module> {
    let particulars = loaded::particulars(number)?;
    let (start, end) = particulars.code;
    Some(Module {
        start: start as u64,
        end: end as u64,
        file_offset: particulars.code_offset,
        file: path_of(number),
        build_id: hexadecimal(particulars.build_id()),
    })
}

/// The path of a module's file.
pub(in crate::trace) fn path_of(number: Number) -> String {
    let mut path = vec![0; PATH_MAX];
    let len = loaded::path(number, &mut path);
    String::from_utf8_lossy(&path[..len]).into_owned()
}

pub(in crate::trace) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The code of the preload library, if this crate is in it: none of its frames belongs to the program.
pub(in crate::trace) fn of_preload() -> Option<core::ops::Range<u64>> {
    if !cfg!(feature = "__raw") {
        return None;
    }
    let own: fn() -> Option<core::ops::Range<u64>> = of_preload;
    let own = own as usize as u64;
    // The program itself comes first.
    let module = all().into_iter().skip(1).find(|module| module.holds(own))?;
    Some(module.start..module.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_of_this_test_is_in_a_module() {
        let here = all as fn() -> Vec<Module> as usize as u64;
        let modules = all();
        let module = modules.iter().find(|module| module.holds(here)).expect("a module");
        assert!(std::path::Path::new(&module.file).is_file(), "{module:?}");
    }
}
