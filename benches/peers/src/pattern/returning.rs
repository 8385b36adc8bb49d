//! Requests to the allocator, and to the C library's `malloc` beside it, to return free memory.

#[cfg(feature = "alloc-mimalloc3")]
unsafe extern "C" {
    fn mi_collect(force: bool);
}
#[cfg(feature = "alloc-jemalloc")]
unsafe extern "C" {
    #[link_name = "_rjem_mallctl"]
    fn mallctl(
        name: *const libc::c_char,
        old: *mut libc::c_void,
        old_bytes: *mut usize,
        new: *mut libc::c_void,
        new_bytes: usize,
    ) -> libc::c_int;
}

/// Asks for the return of all free memory, by the allocator's own means. glibc is asked, too, because it serves the
/// large blocks of `pymalloc`.
pub fn request() {
    #[cfg(any(feature = "alloc-pymalloc", feature = "alloc-pymalloc-medium"))]
    pymalloc::purge();
    #[cfg(feature = "alloc-mimalloc3")]
    // SAFETY: any thread may call it at any time.
    unsafe {
        mi_collect(true);
    }
    #[cfg(feature = "alloc-jemalloc")]
    {
        use std::ptr::null_mut;
        // All arenas (MALLCTL_ARENAS_ALL).
        // SAFETY: a command without arguments.
        let status =
            unsafe { mallctl(c"arena.4096.purge".as_ptr(), null_mut(), null_mut(), null_mut(), 0) };
        assert_eq!(status, 0, "jemalloc knows the command");
    }
    #[cfg(any(
        feature = "alloc-system",
        feature = "alloc-pymalloc",
        feature = "alloc-pymalloc-medium"
    ))]
    // SAFETY: any thread may call it at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}
