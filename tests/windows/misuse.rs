//! What the patterns of misuse ask of the system.

use std::ffi::c_void;
use std::process::ExitStatus;
use std::ptr::null_mut;

const MEM_COMMIT_RESERVE: u32 = 0x3000;
const PAGE_NOACCESS: u32 = 0x01;
const PAGE_READWRITE: u32 = 0x04;
/// All that can be run: `PAGE_EXECUTE` to `PAGE_EXECUTE_WRITECOPY`.
const ANY_EXECUTE: u32 = 0xf0;

/// `MEMORY_BASIC_INFORMATION`.
#[repr(C)]
struct Known {
    base_address: *mut c_void,
    allocation_base: *mut c_void,
    allocation_protect: u32,
    partition_id: u16,
    region_bytes: usize,
    state: u32,
    protect: u32,
    kind: u32,
}

#[link(name = "kernel32")]
unsafe extern "system" {
    fn VirtualAlloc(address: *mut c_void, bytes: usize, kind: u32, access: u32) -> *mut c_void;
    fn VirtualQuery(address: *const c_void, known: *mut Known, bytes: usize) -> usize;
}

/// Memory that no allocator knows.
pub(crate) fn map(is_usable: bool) -> *mut u8 {
    let access = if is_usable { PAGE_READWRITE } else { PAGE_NOACCESS };
    // SAFETY: new memory disturbs nothing.
    let start = unsafe { VirtualAlloc(null_mut(), 1 << 20, MEM_COMMIT_RESERVE, access) };
    assert!(!start.is_null());
    start.cast::<u8>().wrapping_add(4096)
}

/// Whether what is mapped at an address can be run.
pub(crate) fn is_executable(address: usize) -> bool {
    // SAFETY: plain data, of which zero is a valid value.
    let mut known: Known = unsafe { std::mem::zeroed() };
    // SAFETY: an address is only looked up; a place for the answer.
    let bytes = unsafe { VirtualQuery(std::ptr::without_provenance(address), &raw mut known, size_of::<Known>()) };
    assert_eq!(bytes, size_of::<Known>());
    known.protect & ANY_EXECUTE != 0
}

/// Whether a process ended by an access that the processor refused, or because the process's heap found itself
/// corrupted.
pub(crate) fn is_fault(status: ExitStatus) -> bool {
    const ACCESS_VIOLATION: u32 = 0xc000_0005;
    const HEAP_CORRUPTION: u32 = 0xc000_0374;
    /// Wine's, of a fault for which it starts no debugger.
    const DEBUGGER_INACTIVE: u32 = 0xc000_0354;
    let faults = [ACCESS_VIOLATION, HEAP_CORRUPTION, DEBUGGER_INACTIVE];
    status.code().is_some_and(|code| faults.contains(&code.cast_unsigned()))
}
