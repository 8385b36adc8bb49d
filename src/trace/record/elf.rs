//! What a loaded module's program headers tell: where its code is, its unwind information and its build id. Linux only.

use core::ffi::{CStr, c_int, c_void};

use super::loaded::{BUILD_ID_MAX, Particulars, Range};

/// The headers are found only within this many bytes of a module's start.
const HEADERS_END: usize = 1 << 12;
/// The program headers of a loaded module.
pub(in crate::trace) struct Headers<'headers> {
    base: usize,
    headers: &'headers [libc::Elf64_Phdr],
}

impl<'headers> Headers<'headers> {
    /// The headers of a module, by its first bytes; `None` if they are not there.
    ///
    /// # Safety
    /// `first` are the first bytes of a module in memory. Its whole first OS page is mapped, and its segments stay
    /// mapped as long as the result lives. `base` is its load bias.
    pub(in crate::trace) unsafe fn at_start(first: &'headers [u8], base: usize) -> Option<Self> {
        if first.len() < size_of::<libc::Elf64_Ehdr>() || !first.starts_with(b"\x7fELF\x02") {
            return None;
        }
        // SAFETY: long enough, plain numbers.
        let header = unsafe { first.as_ptr().cast::<libc::Elf64_Ehdr>().read_unaligned() };
        let (start, count) = (usize::try_from(header.e_phoff).ok()?, usize::from(header.e_phnum));
        let end = start.checked_add(count * size_of::<libc::Elf64_Phdr>())?;
        let is_usual = usize::from(header.e_phentsize) == size_of::<libc::Elf64_Phdr>() && start.is_multiple_of(8);
        if !is_usual || end > HEADERS_END {
            return None;
        }
        // SAFETY: within the first OS page, which the caller says is mapped.
        let headers = unsafe { core::slice::from_raw_parts(first.as_ptr().wrapping_add(start).cast(), count) };
        Some(Self { base, headers })
    }

    fn of_type(&self, kind: u32) -> impl Iterator<Item = &libc::Elf64_Phdr> {
        self.headers.iter().filter(move |header| header.p_type == kind)
    }

    fn range(&self, header: &libc::Elf64_Phdr) -> Range {
        let start = self.base.wrapping_add(header.p_vaddr as usize);
        (start, start.wrapping_add(header.p_memsz as usize))
    }

    /// The executable segments and where they are in the file.
    pub(in crate::trace) fn code(&self) -> impl Iterator<Item = (Range, u64)> {
        let code = self.of_type(libc::PT_LOAD).filter(|header| header.p_flags & libc::PF_X != 0);
        code.map(|header| (self.range(header), header.p_offset))
    }

    pub(in crate::trace) fn particulars(&self) -> Particulars {
        let segments = || self.of_type(libc::PT_LOAD).map(|header| self.range(header));
        let mapped = segments().fold((usize::MAX, 0), |all: Range, (start, end)| (all.0.min(start), all.1.max(end)));
        let (code, code_offset) = self.code().next().unwrap_or_default();
        let table = self.of_type(libc::PT_GNU_EH_FRAME).map(|header| self.range(header)).next().unwrap_or_default();
        let holder = segments().find(|&(start, end)| start <= table.0 && table.1 <= end);
        let (mut build_id, mut build_id_len) = ([0; BUILD_ID_MAX], 0);
        let ids = self.of_type(libc::PT_NOTE).find_map(|header| {
            let (start, end) = self.range(header);
            // SAFETY: a segment that the loader mapped, readable, for as long as these headers.
            self::build_id(unsafe {
                core::slice::from_raw_parts(core::ptr::with_exposed_provenance::<u8>(start), end - start)
            })
        });
        if let Some(id) = ids
            && let Some(place) = build_id.get_mut(..id.len())
        {
            place.copy_from_slice(id);
            build_id_len = id.len() as u8;
        }
        Particulars {
            base: self.base,
            mapped: if mapped.0 < mapped.1 { mapped } else { (0, 0) },
            code,
            code_offset,
            table: if holder.is_some() { table } else { (0, 0) },
            table_segment: holder.unwrap_or_default(),
            build_id,
            build_id_len,
        }
    }
}

type Visit<'visit> = dyn FnMut(usize, Headers<'_>, &CStr) + 'visit;

/// Calls `visit` with each loaded module: its number in the loader's list, in which the program itself comes first, its
/// headers, and its name. Takes the loader's lock.
pub(in crate::trace) fn each_loaded(visit: &mut Visit<'_>) {
    let mut data: (usize, &mut Visit<'_>) = (0, visit);
    // SAFETY: `call` gets `data`, which lives as long as the call.
    unsafe { libc::dl_iterate_phdr(Some(call), (&raw mut data).cast()) };
}

unsafe extern "C" fn call(info: *mut libc::dl_phdr_info, _bytes: usize, data: *mut c_void) -> c_int {
    // SAFETY: the loader passes a valid `info`, and `data` is that of `each_loaded`.
    let (info, (number, visit)) = unsafe { (&*info, &mut *data.cast::<(usize, &mut Visit<'_>)>()) };
    let headers = if info.dlpi_phdr.is_null() {
        &[]
    } else {
        // SAFETY: the loader has mapped that many headers.
        unsafe { core::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) }
    };
    // SAFETY: a string of the loader's.
    let name = if info.dlpi_name.is_null() { c"" } else { unsafe { CStr::from_ptr(info.dlpi_name) } };
    visit(*number, Headers { base: info.dlpi_addr as usize, headers }, name);
    *number += 1;
    0
}

/// The build id among the notes of a segment: name `GNU`, type 3.
fn build_id(mut notes: &[u8]) -> Option<&[u8]> {
    let number = |bytes: &[u8], at: usize| -> Option<usize> {
        Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?) as usize)
    };
    loop {
        let (name_bytes, id_bytes, kind) = (number(notes, 0)?, number(notes, 4)?, number(notes, 8)?);
        let id_start = 12 + name_bytes.next_multiple_of(4);
        if kind == 3 && notes.get(12..12 + name_bytes) == Some(b"GNU\0") {
            return notes.get(id_start..id_start + id_bytes);
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
        assert_eq!(build_id(&notes), Some(&[0xab, 0x01, 0xff][..]));
        for length in 0..notes.len() - 4 {
            assert_eq!(build_id(&notes[..length]), None);
        }
    }
}
