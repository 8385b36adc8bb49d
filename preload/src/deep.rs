//! `dlopen` without `RTLD_DEEPBIND`.
//!
//! With that flag, a library and its dependencies find the C library's malloc before the preloaded one. A block that
//! such a library exchanges with the program then meets the wrong `free`: glibc's takes the bytes before one of our
//! blocks for a header. PHP's module for Apache, and hosts of plug-ins, set the flag. So it is removed, unless
//! `PYMALLOC_DEEPBIND=1` says that the program's plug-ins need it and exchange no blocks with the program.
//!
//! glibc uses `dlopen`'s return address to find the caller's own search path and namespace. So the function here has no
//! frame: it changes one argument and jumps.

use core::ffi::c_void;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use crate::start::variable;

/// The flags that are not removed.
static FLAGS: AtomicU32 = AtomicU32::new(!(libc::RTLD_DEEPBIND as u32));

/// The next `dlopen` in the link chain; null before the first call.
static NEXT: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());

/// Reads the variable.
pub(crate) fn prepare() {
    if variable(c"PYMALLOC_DEEPBIND") == Some(c"1") {
        // Relaxed: written while the library is loaded.
        FLAGS.store(u32::MAX, Ordering::Relaxed);
    }
}

/// Looks up the next definition.
unsafe extern "C" fn find_next() -> *mut c_void {
    // SAFETY: a C string.
    let mut found = unsafe { libc::dlsym(libc::RTLD_NEXT, c"dlopen".as_ptr()) };
    if found.is_null() {
        found = none as *mut c_void;
    }
    // Relaxed: code, which does not change; looking it up twice does no harm.
    NEXT.store(found, Ordering::Relaxed);
    found
}

/// Stands in for a `dlopen` that does not exist.
unsafe extern "C" fn none() -> *mut c_void {
    ptr::null_mut()
}

/// `dlopen`.
///
/// # Safety
/// As for `dlopen`.
#[cfg(target_arch = "x86_64")]
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn dlopen() {
    core::arch::naked_asm!(
        ".cfi_startproc",
        "and esi, dword ptr [rip + {flags}]",
        "mov rax, qword ptr [rip + {next}]",
        "test rax, rax",
        "jz 2f",
        "jmp rax",
        "2:",
        "push rdi",
        ".cfi_adjust_cfa_offset 8",
        "push rsi",
        ".cfi_adjust_cfa_offset 8",
        // The stack is aligned to 16 at a call.
        "sub rsp, 8",
        ".cfi_adjust_cfa_offset 8",
        "call {find_next}",
        "add rsp, 8",
        ".cfi_adjust_cfa_offset -8",
        "pop rsi",
        ".cfi_adjust_cfa_offset -8",
        "pop rdi",
        ".cfi_adjust_cfa_offset -8",
        "jmp rax",
        ".cfi_endproc",
        flags = sym FLAGS,
        next = sym NEXT,
        find_next = sym find_next,
    )
}

/// `dlopen`.
///
/// # Safety
/// As for `dlopen`.
#[cfg(target_arch = "aarch64")]
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn dlopen() {
    core::arch::naked_asm!(
        ".cfi_startproc",
        "adrp x16, {flags}",
        "ldr w16, [x16, :lo12:{flags}]",
        "and w1, w1, w16",
        "adrp x16, {next}",
        "ldr x16, [x16, :lo12:{next}]",
        "cbz x16, 2f",
        "br x16",
        "2:",
        "stp x0, x1, [sp, -32]!",
        ".cfi_def_cfa_offset 32",
        "str x30, [sp, 16]",
        ".cfi_offset x30, -16",
        "bl {find_next}",
        "mov x16, x0",
        "ldr x30, [sp, 16]",
        ".cfi_restore x30",
        "ldp x0, x1, [sp], 32",
        ".cfi_def_cfa_offset 0",
        "br x16",
        ".cfi_endproc",
        flags = sym FLAGS,
        next = sym NEXT,
        find_next = sym find_next,
    )
}
