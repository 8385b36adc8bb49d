//! What the library does not serve itself: glibc's own malloc, and definitions that come after ours in the link chain.

use core::ffi::{CStr, c_void};
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

// glibc's names for its own functions: bound by the dynamic linker to glibc's definitions, whatever stands before them.
unsafe extern "C" {
    pub(crate) fn __libc_malloc(bytes: usize) -> *mut c_void;
    pub(crate) fn __libc_calloc(count: usize, bytes: usize) -> *mut c_void;
    pub(crate) fn __libc_realloc(start: *mut c_void, bytes: usize) -> *mut c_void;
    pub(crate) fn __libc_free(start: *mut c_void);
    pub(crate) fn __libc_memalign(align: usize, bytes: usize) -> *mut c_void;
    pub(crate) fn __libc_valloc(bytes: usize) -> *mut c_void;
    pub(crate) fn __libc_pvalloc(bytes: usize) -> *mut c_void;
}

/// The definition of a symbol that would have been used without this library. Looked up once it is needed.
pub(crate) struct Next {
    name: &'static CStr,
    found: AtomicPtr<c_void>,
}

impl Next {
    pub(crate) const fn new(name: &'static CStr) -> Self {
        Self { name, found: AtomicPtr::new(ptr::null_mut()) }
    }

    /// Its address, if it was looked up before; else null.
    pub(crate) fn known(&self) -> *mut c_void {
        // Relaxed: as in `address`.
        self.found.load(Ordering::Relaxed)
    }

    /// Its address; null if there is none so far. (C++'s library may be loaded later.)
    #[cold]
    #[inline(never)]
    pub(crate) fn address(&self) -> *mut c_void {
        // Relaxed (both): code, which does not change; looking it up twice does no harm.
        let known = self.found.load(Ordering::Relaxed);
        if !known.is_null() {
            return known;
        }
        // SAFETY: names are C strings.
        let found = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) };
        let found = if found.is_null() { self.in_local_libraries() } else { found };
        self.found.store(found, Ordering::Relaxed);
        found
    }

    /// C++'s library is out of `RTLD_NEXT`'s sight where a plug-in brought it with it, as for CPython's extensions.
    fn in_local_libraries(&self) -> *mut c_void {
        for library in [c"libstdc++.so.6", c"libc++abi.so.1", c"libc++.so.1"] {
            // SAFETY: C strings; nothing is loaded, and the handle need not be closed: it is of a library in use.
            unsafe {
                let handle = libc::dlopen(library.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD);
                if !handle.is_null() {
                    let found = libc::dlsym(handle, self.name.as_ptr());
                    if !found.is_null() {
                        return found;
                    }
                }
            }
        }
        ptr::null_mut()
    }
}

static USABLE_SIZE: Next = Next::new(c"malloc_usable_size");

/// Looks up what must not be looked up while a block is freed or moved.
pub(crate) fn look_ahead() {
    USABLE_SIZE.address();
}

/// The bytes of a block of glibc's; `None` before the library is loaded completely.
///
/// # Safety
/// `start` is such a block, in the caller's hands.
pub(crate) unsafe fn usable_bytes(start: *mut c_void) -> Option<usize> {
    let next = USABLE_SIZE.known();
    // SAFETY: the C library's function of that name and type.
    (!next.is_null()).then(|| unsafe {
        let next: unsafe extern "C" fn(*mut c_void) -> usize = core::mem::transmute(next);
        next(start)
    })
}
