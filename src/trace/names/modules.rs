//! The files whose code is in the process, and their build ids: what somebody else needs to name the addresses.

use core::ffi::CStr;
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
use core::ffi::{c_int, c_void};

use crate::trace::record::rules::Code;

/// A file's code, where it is mapped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::trace) struct Module {
    pub(in crate::trace) start: u64,
    pub(in crate::trace) end: u64,
    /// Of `start` in the file.
    pub(in crate::trace) file_offset: u64,
    pub(in crate::trace) file: String,
    /// In hexadecimal; empty if the linker made none.
    pub(in crate::trace) build_id: String,
}

/// The executable segments of the program and its shared libraries.
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
pub(in crate::trace) fn all() -> Vec<Module> {
    let mut modules: Vec<Module> = Vec::new();
    // SAFETY: `visit` gets `modules` as its data, which lives as long as the call.
    unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut modules).cast()) };
    modules
}

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
pub(in crate::trace) fn all() -> Vec<Module> {
    Vec::new()
}

/// The program headers of a module.
///
/// # Safety
/// The loader passed `info`, and its call goes on.
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
unsafe fn headers(info: &libc::dl_phdr_info) -> &[libc::Elf64_Phdr] {
    if info.dlpi_phdr.is_null() {
        return &[];
    }
    // SAFETY: the loader has mapped so many.
    unsafe { core::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) }
}

#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
unsafe extern "C" fn visit(info: *mut libc::dl_phdr_info, _bytes: usize, data: *mut c_void) -> c_int {
    // SAFETY: the loader passes a valid `info`, whose headers it has mapped, and `data` is the vector of `all`.
    let (info, modules) = unsafe { (&*info, &mut *data.cast::<Vec<Module>>()) };
    // SAFETY: as above.
    let headers = unsafe { headers(info) };
    let file = if info.dlpi_name.is_null() {
        String::new()
    } else {
        // SAFETY: a string of the loader's.
        unsafe { CStr::from_ptr(info.dlpi_name) }.to_string_lossy().into_owned()
    };
    // The program itself comes first, and without a name, or (linked statically with musl) with one that is any
    // program's.
    let file = if modules.is_empty() && (file.is_empty() || file == "/proc/self/exe") {
        std::env::current_exe().map(|path| path.to_string_lossy().into_owned()).unwrap_or_default()
    } else {
        file
    };
    let notes = headers.iter().filter(|header| header.p_type == libc::PT_NOTE);
    let build_id = notes.filter_map(|header| {
        let start = info.dlpi_addr.wrapping_add(header.p_vaddr) as usize;
        // SAFETY: a segment that the loader mapped, readable, for as long as the call.
        build_id(unsafe {
            core::slice::from_raw_parts(core::ptr::with_exposed_provenance(start), header.p_memsz as usize)
        })
    });
    let build_id = build_id.into_iter().next().unwrap_or_default();
    let code = |header: &&libc::Elf64_Phdr| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_X != 0;
    modules.extend(headers.iter().filter(code).map(|header| {
        let start = info.dlpi_addr.wrapping_add(header.p_vaddr);
        Module {
            start,
            end: start + header.p_memsz,
            file_offset: header.p_offset,
            file: file.clone(),
            build_id: build_id.clone(),
        }
    }));
    0
}

/// The file that an address's code is in, and where it is mapped. Allocates nothing.
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
pub(in crate::trace) fn file_of(address: usize) -> Option<(&'static CStr, usize)> {
    // SAFETY: a place for the answer, which is valid as zeroed; names are the loader's, for as long as the file is
    // loaded.
    unsafe {
        let mut info: libc::Dl_info = core::mem::zeroed();
        let found = libc::dladdr(core::ptr::without_provenance(address), &mut info);
        let named = found != 0 && !info.dli_fname.is_null();
        named.then(|| (CStr::from_ptr(info.dli_fname), info.dli_fbase.addr()))
    }
}

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
pub(in crate::trace) fn file_of(_address: usize) -> Option<(&'static CStr, usize)> {
    None
}

/// The code of the library that this crate is in, if that is the preload library: no frame of it is the program's.
pub(in crate::trace) fn of_preload() -> Option<core::ops::Range<u64>> {
    if !cfg!(feature = "__raw") {
        return None;
    }
    let own: fn() -> Option<core::ops::Range<u64>> = of_preload;
    let own = own as usize as u64;
    // The program itself comes first.
    let module = all().into_iter().skip(1).find(|module| (module.start..module.end).contains(&own))?;
    Some(module.start..module.end)
}

/// The code whose frames may be walked by rules kept from the debug information: of the modules that stay mapped for
/// ever, which are the program's own file, the one that this crate is in, and the C library.
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
pub(in crate::trace) fn code() -> Vec<Code> {
    let mut code: Vec<Code> = Vec::new();
    // SAFETY: `visit_code` gets `code` as its data, which lives as long as the call.
    unsafe { libc::dl_iterate_phdr(Some(visit_code), (&raw mut code).cast()) };
    let own: fn() -> Vec<Code> = self::code;
    let of_libc: unsafe extern "C" fn() -> libc::pid_t = libc::getpid;
    let wanted = [own as usize, of_libc as usize];
    let mut number = 0;
    // The program comes first.
    code.retain(|code| {
        number += 1;
        number == 1 || wanted.iter().any(|address| (code.start..code.end).contains(address))
    });
    code
}

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
pub(in crate::trace) fn code() -> Vec<Code> {
    Vec::new()
}

#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
unsafe extern "C" fn visit_code(info: *mut libc::dl_phdr_info, _bytes: usize, data: *mut c_void) -> c_int {
    // SAFETY: as in `visit`.
    let (info, modules) = unsafe { (&*info, &mut *data.cast::<Vec<Code>>()) };
    // SAFETY: as above.
    let headers = unsafe { headers(info) };
    let range = |header: &libc::Elf64_Phdr| {
        let start = info.dlpi_addr.wrapping_add(header.p_vaddr) as usize;
        (start, start + header.p_memsz as usize)
    };
    let of_type = |kind| headers.iter().filter(move |header| header.p_type == kind);
    let code = of_type(libc::PT_LOAD).find(|header| header.p_flags & libc::PF_X != 0).map(range);
    let table = of_type(libc::PT_GNU_EH_FRAME).map(range).next();
    let mapped = of_type(libc::PT_LOAD)
        .map(range)
        .find(|&(start, end)| table.is_some_and(|(table_start, table_end)| start <= table_start && table_end <= end));
    let (start, end) = code.unwrap_or_default();
    let table = match (table, mapped) {
        // SAFETY: in a segment that is mapped as long as the module is, and only read.
        (Some((start, end)), Some(_)) => unsafe {
            core::slice::from_raw_parts(core::ptr::with_exposed_provenance(start), end - start)
        },
        _ => &[],
    };
    modules.push(Code { start, end, table, mapped: mapped.unwrap_or_default() });
    0
}

/// The build id among the notes of a segment: name `GNU`, type 3.
#[cfg(any(test, all(target_os = "linux", target_pointer_width = "64")))]
fn build_id(mut notes: &[u8]) -> Option<String> {
    let number = |bytes: &[u8], at: usize| -> Option<usize> {
        Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?) as usize)
    };
    loop {
        let (name_bytes, id_bytes, kind) = (number(notes, 0)?, number(notes, 4)?, number(notes, 8)?);
        let id_start = 12 + name_bytes.next_multiple_of(4);
        if kind == 3 && notes.get(12..12 + name_bytes) == Some(b"GNU\0") {
            let id = notes.get(id_start..id_start + id_bytes)?;
            return Some(id.iter().map(|byte| format!("{byte:02x}")).collect());
        }
        notes = notes.get(id_start + id_bytes.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_build_id_is_found_after_other_notes_and_damage_is_survived() {
        let mut notes = Vec::new();
        let mut note = |name: &[u8], kind: u32, content: &[u8]| {
            for number in [name.len() as u32, content.len() as u32, kind] {
                notes.extend(number.to_ne_bytes());
            }
            for part in [name, content] {
                notes.extend(part);
                notes.resize(notes.len().next_multiple_of(4), 0);
            }
        };
        note(b"GNU\0", 1, &[1, 2, 3, 4, 5]);
        note(b"Other\0", 3, &[9; 3]);
        note(b"GNU\0", 3, &[0xab, 0x01, 0xff]);
        assert_eq!(build_id(&notes).as_deref(), Some("ab01ff"));
        for length in 0..notes.len() - 4 {
            assert_eq!(build_id(&notes[..length]), None);
        }
    }

    #[test]
    fn the_code_of_this_test_is_in_a_module() {
        let here = all as fn() -> Vec<Module> as usize as u64;
        let modules = all();
        let module = modules.iter().find(|module| (module.start..module.end).contains(&here)).expect("a module");
        assert!(std::path::Path::new(&module.file).is_file(), "{module:?}");
    }
}
