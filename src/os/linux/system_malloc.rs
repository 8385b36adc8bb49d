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

/// Makes the C library's `malloc` give back the free OS pages of its heaps, and those at the end of its first heap.
pub(crate) fn trim_malloc() {
    #[cfg(all(target_env = "gnu", not(feature = "__raw")))]
    {
        let _errno = super::KeepErrno::new();
        // SAFETY: no preconditions.
        unsafe { libc::malloc_trim(0) };
    }
}
