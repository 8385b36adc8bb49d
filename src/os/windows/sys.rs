//! The two dozen functions of Windows that are used. They are declared here, so that the default build depends on no
//! crate for them. Names and types are those of Microsoft's documentation.

use core::ffi::c_void;

/// A handle, which is no address.
pub(super) type Handle = isize;

/// What `GetCurrentProcess` returns, by its documentation.
pub(super) const THIS_PROCESS: Handle = -1;

pub(super) const MEM_COMMIT: u32 = 0x1000;
pub(super) const MEM_RESERVE: u32 = 0x2000;
pub(super) const MEM_DECOMMIT: u32 = 0x4000;
pub(super) const MEM_RELEASE: u32 = 0x8000;
pub(super) const PAGE_NOACCESS: u32 = 0x01;
pub(super) const PAGE_READWRITE: u32 = 0x04;

pub(super) const STD_ERROR_HANDLE: u32 = -12_i32 as u32;
pub(super) const INFINITE: u32 = u32::MAX;
pub(super) const STACK_SIZE_PARAM_IS_A_RESERVATION: u32 = 0x1_0000;
pub(super) const GET_MODULE_HANDLE_EX_FLAG_PIN: u32 = 1;
pub(super) const GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS: u32 = 4;

/// `MEMORY_BASIC_INFORMATION`, of 64 bits.
#[repr(C)]
pub(super) struct MemoryBasicInformation {
    pub(super) base_address: *mut c_void,
    pub(super) allocation_base: *mut c_void,
    pub(super) allocation_protect: u32,
    pub(super) partition_id: u16,
    pub(super) region_bytes: usize,
    pub(super) state: u32,
    pub(super) protect: u32,
    pub(super) kind: u32,
}

/// `PSAPI_WORKING_SET_EX_INFORMATION`. The lowest bit of the attributes says whether the OS page is in the working set.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct WorkingSetExInformation {
    pub(super) address: *mut c_void,
    pub(super) attributes: usize,
}

#[link(name = "kernel32")]
unsafe extern "system" {
    pub(super) fn VirtualAlloc(address: *mut c_void, bytes: usize, kind: u32, access: u32) -> *mut c_void;
    pub(super) fn VirtualFree(address: *mut c_void, bytes: usize, kind: u32) -> i32;
    pub(super) fn VirtualQuery(address: *const c_void, answer: *mut MemoryBasicInformation, bytes: usize) -> usize;
    pub(super) fn K32QueryWorkingSetEx(process: Handle, pages: *mut WorkingSetExInformation, bytes: u32) -> i32;

    pub(super) fn GetLastError() -> u32;
    pub(super) fn SetLastError(error: u32);
    pub(super) fn GetCurrentProcessId() -> u32;
    pub(super) fn GetCurrentThreadId() -> u32;
    pub(super) fn GetTickCount64() -> u64;
    pub(super) fn GetEnvironmentVariableA(name: *const u8, buffer: *mut u8, bytes: u32) -> u32;
    pub(super) fn GetStdHandle(which: u32) -> Handle;
    pub(super) fn WriteFile(
        file: Handle,
        bytes: *const u8,
        count: u32,
        written: *mut u32,
        overlapped: *mut c_void,
    ) -> i32;

    pub(super) fn CreateThread(
        attributes: *mut c_void,
        stack_bytes: usize,
        body: unsafe extern "system" fn(*mut c_void) -> u32,
        argument: *mut c_void,
        flags: u32,
        id: *mut u32,
    ) -> Handle;
    pub(super) fn CloseHandle(handle: Handle) -> i32;
    pub(super) fn GetModuleHandleExW(flags: u32, name: *const c_void, module: *mut Handle) -> i32;
    pub(super) fn GetProcessHeap() -> Handle;
    pub(super) fn HeapAlloc(heap: Handle, flags: u32, bytes: usize) -> *mut c_void;
    pub(super) fn HeapFree(heap: Handle, flags: u32, start: *mut c_void) -> i32;
}

#[link(name = "synchronization")]
unsafe extern "system" {
    pub(super) fn WaitOnAddress(word: *const c_void, expected: *const c_void, bytes: usize, milliseconds: u32) -> i32;
    pub(super) fn WakeByAddressSingle(word: *const c_void);
    pub(super) fn WakeByAddressAll(word: *const c_void);
}

#[link(name = "ntdll")]
unsafe extern "system" {
    pub(super) fn RtlDllShutdownInProgress() -> u8;
}

// No import library of MinGW's has it; every program with std imports it already.
#[cfg(feature = "hardened")]
#[link(name = "bcryptprimitives", kind = "raw-dylib")]
unsafe extern "system" {
    pub(super) fn ProcessPrng(bytes: *mut u8, count: usize) -> i32;
}
