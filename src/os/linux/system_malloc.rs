//! The C library's `malloc`: what it holds, and how much it keeps.

use super::SystemMalloc;

/// Asks the C library's `malloc`; `None` if it has no `mallinfo2`, or the program is linked statically.
pub(crate) fn system_malloc() -> Option<SystemMalloc> {
    #[cfg(all(target_env = "gnu", not(target_feature = "crt-static")))]
    {
        let _errno = super::KeepErrno::new();
        // By its name, because the program must start where the function is missing (before glibc 2.33).
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

/// Has glibc's `malloc` keep twice as many `bytes` at the end of a heap when they are free, if it kept fewer.
///
/// It gives free memory at the end of a heap back once that is more than a threshold, at first 128 KiB. A block that is
/// larger than another threshold it maps by itself; when it is freed, both thresholds rise: that one to the block's
/// size, the first to twice that (glibc's malloc.c, "dynamic mmap threshold", up to 32 MiB). Unlike `mallopt`, a block
/// leaves them free to rise further, and alone where the program has set them.
#[cfg(all(target_env = "gnu", not(feature = "__raw")))]
pub(crate) fn let_malloc_keep(bytes: usize) {
    const BYTES_MAX: usize = (32 << 20) - (64 << 10);
    let _errno = super::KeepErrno::new();
    // The black box, or else the compiler would leave both calls out.
    // SAFETY: the block is freed once, or null.
    unsafe { libc::free(core::hint::black_box(libc::malloc(bytes.min(BYTES_MAX)))) };
}

/// Other C libraries have no such thresholds; in the preload library `malloc` is ours, and CPython's programs gained
/// nothing.
#[cfg(not(all(target_env = "gnu", not(feature = "__raw"))))]
pub(crate) fn let_malloc_keep(_bytes: usize) {}
