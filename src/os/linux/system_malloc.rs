//! The C library's `malloc`: what it holds, and how much free memory it keeps.

use super::SystemMalloc;

/// Asks the C library's `malloc` what it holds. `None` if it has no `mallinfo2`, or if the program is linked
/// statically.
pub(crate) fn system_malloc() -> Option<SystemMalloc> {
    #[cfg(all(target_env = "gnu", not(target_feature = "crt-static")))]
    {
        let _errno = super::KeepErrno::new();
        // By its name, because the program must also start where the function is missing (before glibc 2.33).
        // SAFETY: a name that ends in a zero byte; RTLD_DEFAULT is always valid.
        let function = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"mallinfo2".as_ptr()) };
        if function.is_null() {
            return None;
        }
        // SAFETY: the function of that name has that type.
        let info = unsafe {
            let function: extern "C" fn() -> libc::mallinfo2 = core::mem::transmute(function);
            function()
        };
        Some(SystemMalloc { bytes_live: info.uordblks + info.hblkhd, bytes_free: info.fordblks })
    }
    #[cfg(not(all(target_env = "gnu", not(target_feature = "crt-static"))))]
    None
}

/// Makes glibc's `malloc` keep up to `bytes` of free memory in the calling thread's heap, from now on.
///
/// glibc gives back free memory at the end of a heap, but none below a block in use. So this puts a small block `bytes`
/// above the end of the heap, and never frees it. A higher threshold of glibc's would hold for each of its heaps (eight
/// per core); this bounds the memory that is kept. `malloc_trim` still reaches the memory below the block.
#[cfg(all(target_env = "gnu", not(feature = "__raw")))]
pub(crate) fn let_malloc_keep(bytes: usize) {
    use core::ptr::null_mut;
    use core::sync::atomic::{AtomicPtr, Ordering};

    /// glibc maps larger blocks by themselves (its threshold is 128 KiB at the start).
    const STEP_BYTES: usize = 120 << 10;
    const STEPS_MAX: usize = 32;
    /// Where leak checkers find the block.
    static PIN: AtomicPtr<libc::c_void> = AtomicPtr::new(null_mut());

    let _errno = super::KeepErrno::new();
    let mut steps = [null_mut(); STEPS_MAX];
    let count = (bytes / STEP_BYTES).min(STEPS_MAX);
    // Without the black boxes, the compiler would leave the calls out.
    // SAFETY: each block is null, or freed once. The last one, cut down to its start, is never freed.
    unsafe {
        for step in &mut steps[..count] {
            *step = core::hint::black_box(libc::malloc(STEP_BYTES));
        }
        let pin = core::hint::black_box(libc::realloc(core::hint::black_box(libc::malloc(STEP_BYTES)), 1));
        // Relaxed: no code reads it.
        PIN.store(pin, Ordering::Relaxed);
        steps.iter().take(count).for_each(|&step| libc::free(step));
    }
}

/// Other C libraries keep free memory by rules of their own. In the preload library `malloc` is ours, and CPython's
/// programs gained nothing by this.
#[cfg(not(all(target_env = "gnu", not(feature = "__raw"))))]
pub(crate) fn let_malloc_keep(_bytes: usize) {}

/// Makes the C library's `malloc` give back the free OS pages of its heaps, and those at the end of its first heap.
pub(crate) fn trim_malloc() {
    #[cfg(all(target_env = "gnu", not(feature = "__raw")))]
    {
        let _errno = super::KeepErrno::new();
        // SAFETY: no preconditions.
        unsafe { libc::malloc_trim(0) };
    }
}
