//! The loaded modules: where their statics are, and how large their thread-locals are.

use core::ffi::{CStr, c_int, c_void};
use std::path::PathBuf;

use super::found::Module;
use crate::trace::access;

/// All modules, as the loader lists them.
pub(super) fn all() -> Vec<Module> {
    let mut modules: Vec<Module> = Vec::new();
    // SAFETY: `call` gets the list, which lives as long as the call.
    access::with_loader(|| unsafe { libc::dl_iterate_phdr(Some(call), (&raw mut modules).cast()) });
    // The program itself comes first, without a name.
    if let (Some(first), Ok(program)) = (modules.first_mut(), std::env::current_exe()) {
        first.path = program;
    }
    modules
}

unsafe extern "C" fn call(info: *mut libc::dl_phdr_info, _bytes: usize, modules: *mut c_void) -> c_int {
    // SAFETY: the loader passes a valid `info`, and the list is that of `all`.
    let (info, modules) = unsafe { (&*info, &mut *modules.cast::<Vec<Module>>()) };
    let headers = if info.dlpi_phdr.is_null() {
        &[]
    } else {
        // SAFETY: the loader has mapped that many headers.
        unsafe { core::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) }
    };
    // SAFETY: a string of the loader's.
    let name = if info.dlpi_name.is_null() { c"" } else { unsafe { CStr::from_ptr(info.dlpi_name) } };
    let base = info.dlpi_addr as usize;
    let writable = headers.iter().filter(|header| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W != 0);
    let ranges = writable.map(|header| {
        let start = base.wrapping_add(header.p_vaddr as usize);
        (start, start.wrapping_add(header.p_memsz as usize))
    });
    let tls = headers.iter().find(|header| header.p_type == libc::PT_TLS);
    modules.push(Module {
        path: PathBuf::from(name.to_string_lossy().into_owned()),
        base,
        writable: ranges.collect(),
        tls_number: info.dlpi_tls_modid,
        tls_bytes: tls.map_or(0, |header| header.p_memsz as usize),
    });
    0
}
