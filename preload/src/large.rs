//! Blocks above 512 bytes: up to 1 MiB they are from the arenas, beyond that from glibc's own malloc. And definitions
//! of functions that come after ours in the link chain.

use core::ffi::{CStr, c_int, c_void};
use core::mem::MaybeUninit;
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

use crate::start;

use pymalloc_core::raw::{self, MediumPlace};

// glibc's names for its own functions. The dynamic linker binds them to glibc's definitions, whatever stands before
// them in the link chain. The exception is a program whose other allocator has these names, too (gperftools' tcmalloc):
// then all of them are bound to that allocator.
unsafe extern "C" {
    fn __libc_malloc(bytes: usize) -> *mut c_void;
    fn __libc_calloc(count: usize, bytes: usize) -> *mut c_void;
    fn __libc_realloc(start: *mut c_void, bytes: usize) -> *mut c_void;
    fn __libc_free(start: *mut c_void);
    fn __libc_memalign(align: usize, bytes: usize) -> *mut c_void;
    fn __libc_valloc(bytes: usize) -> *mut c_void;
    fn __libc_pvalloc(bytes: usize) -> *mut c_void;
}

/// Whether the tracer wants to be told of large blocks; always `false` in a library without it.
#[inline(always)]
fn is_observed() -> bool {
    cfg!(feature = "trace") && raw::is_observed()
}

/// Calls `allocate`, and tells the tracer of the block.
#[cold]
#[inline(never)]
fn allocate_observed(bytes: usize, allocate: impl FnOnce() -> *mut c_void) -> *mut c_void {
    let block = allocate();
    raw::large_allocated(block, bytes);
    block
}

/// Functions that allocate, and tell the tracer of the block while it is on.
macro_rules! allocators {
    ($($function:ident = $of_libc:ident($($argument:ident),+), $bytes:expr;)+) => { $(
        /// # Safety
        /// None.
        #[inline(always)]
        pub(crate) unsafe fn $function($($argument: usize),+) -> *mut c_void {
            if is_observed() {
                // SAFETY: no preconditions.
                return allocate_observed($bytes, || unsafe { $of_libc($($argument),+) });
            }
            // SAFETY: no preconditions.
            unsafe { $of_libc($($argument),+) }
        }
    )+ };
}

allocators! {
    malloc = malloc_unobserved(bytes), bytes;
    calloc = calloc_unobserved(count, bytes), count.saturating_mul(bytes);
    memalign = memalign_unobserved(align, bytes), bytes;
    valloc = __libc_valloc(bytes), bytes;
    pvalloc = __libc_pvalloc(bytes), bytes;
}

/// The alignment of every block of C's.
const ALIGN: usize = 16;

fn or_no_memory(block: *mut c_void) -> *mut c_void {
    if block.is_null() {
        // SAFETY: libc's own thread-local.
        unsafe { *libc::__errno_location() = libc::ENOMEM };
    }
    block
}

/// # Safety
/// None.
#[inline]
unsafe fn malloc_unobserved(bytes: usize) -> *mut c_void {
    match MediumPlace::of_size_align(bytes, ALIGN) {
        Some(place) => or_no_memory(place.allocate()),
        // SAFETY: no preconditions.
        None => unsafe { __libc_malloc(bytes) },
    }
}

/// # Safety
/// None.
#[inline]
unsafe fn calloc_unobserved(count: usize, bytes: usize) -> *mut c_void {
    match count.checked_mul(bytes).and_then(|bytes| MediumPlace::of_size_align(bytes, ALIGN)) {
        Some(place) => or_no_memory(place.allocate_zeroed()),
        // SAFETY: no preconditions.
        None => unsafe { __libc_calloc(count, bytes) },
    }
}

/// Allocates with an alignment, which is a power of two.
///
/// # Safety
/// None.
#[inline]
unsafe fn memalign_unobserved(align: usize, bytes: usize) -> *mut c_void {
    match MediumPlace::of_size_align(bytes, align.max(ALIGN)) {
        Some(place) if start::free_is_ours() => or_no_memory(place.allocate()),
        // SAFETY: no preconditions.
        _ => unsafe { __libc_memalign(align, bytes) },
    }
}

/// # Safety
/// As for `realloc`: a block of glibc's, or null.
#[inline]
unsafe fn realloc_unobserved(start: *mut c_void, bytes: usize) -> *mut c_void {
    let Some(place) = MediumPlace::of_address(start) else {
        // SAFETY: the caller's promise is the same.
        return unsafe { __libc_realloc(start, bytes) };
    };
    // SAFETY: the caller's promise; the old block stays the caller's if there is no new one.
    unsafe {
        if bytes == 0 {
            place.free(start);
            return ptr::null_mut();
        }
        if place.resize(start, bytes) {
            return start;
        }
        let new = malloc_unobserved(bytes);
        if !new.is_null() {
            new.cast::<u8>().copy_from_nonoverlapping(start.cast(), bytes.min(place.block_bytes()));
            place.free(start);
        }
        new
    }
}

/// # Safety
/// As for `free`: a block of ours above 512 bytes, or of glibc's, or null.
#[inline]
unsafe fn free_unobserved(start: *mut c_void) {
    match MediumPlace::of_address(start) {
        // SAFETY: the caller's promise is the same.
        Some(place) => unsafe { place.free(start) },
        // SAFETY: the caller's promise is the same.
        None => unsafe { __libc_free(start) },
    }
}

/// # Safety
/// As for `realloc`: a block of ours above 512 bytes, or of glibc's, or null.
#[inline(always)]
pub(crate) unsafe fn realloc(start: *mut c_void, bytes: usize) -> *mut c_void {
    raw::check_large(start);
    if is_observed() {
        // SAFETY: the caller's promise is the same.
        return unsafe { realloc_observed(start, bytes) };
    }
    // SAFETY: the caller's promise is the same.
    unsafe { realloc_unobserved(start, bytes) }
}

/// # Safety
/// As for [`realloc`].
#[cold]
#[inline(never)]
unsafe fn realloc_observed(start: *mut c_void, bytes: usize) -> *mut c_void {
    if bytes == 0 {
        // Frees, and returns null: not a failure.
        raw::large_freed(start);
        // SAFETY: the caller's promise is the same.
        return unsafe { realloc_unobserved(start, bytes) };
    }
    // SAFETY: the caller's promise is the same.
    raw::large_resized(start, bytes, || unsafe { realloc_unobserved(start, bytes) })
}

/// # Safety
/// As for `free`: a block of ours above 512 bytes, or of glibc's, or null.
#[inline(always)]
pub(crate) unsafe fn free(start: *mut c_void) {
    raw::check_large(start);
    if is_observed() {
        raw::large_freed(start);
    }
    // SAFETY: the caller's promise is the same.
    unsafe { free_unobserved(start) }
}

/// Where a [`Function`] is defined.
enum Home {
    Next,
    Libc,
    /// Where `__libc_malloc` is.
    Large,
}

/// A function of another library, looked up once it is needed.
pub(crate) struct Function {
    name: &'static CStr,
    home: Home,
    found: AtomicPtr<c_void>,
}

impl Function {
    /// The definition that would have been used without this library.
    pub(crate) const fn next(name: &'static CStr) -> Self {
        Self { name, home: Home::Next, found: AtomicPtr::new(ptr::null_mut()) }
    }

    /// The C library's own definition, even if another allocator stands before it in the link chain.
    pub(crate) const fn of_libc(name: &'static CStr) -> Self {
        Self { name, home: Home::Libc, found: AtomicPtr::new(ptr::null_mut()) }
    }

    /// The definition of the allocator whose blocks the functions above return.
    const fn of_large(name: &'static CStr) -> Self {
        Self { name, home: Home::Large, found: AtomicPtr::new(ptr::null_mut()) }
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
        let known = self.known();
        if !known.is_null() {
            return known;
        }
        let found = match self.home {
            Home::Next => self.after_this_library(),
            Home::Libc => self.in_library(c"libc.so.6"),
            Home::Large => self.beside_malloc(),
        };
        self.found.store(found, Ordering::Relaxed);
        found
    }

    /// The next definition. `RTLD_NEXT` does not see C++'s library if a plug-in loaded it, as CPython's extensions do:
    /// so that library is asked, too.
    fn after_this_library(&self) -> *mut c_void {
        // SAFETY: a C string.
        let mut found = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) };
        for library in [c"libstdc++.so.6", c"libc++abi.so.1", c"libc++.so.1"] {
            if found.is_null() {
                found = self.in_library(library);
            }
        }
        found
    }

    /// The definition in the library that `__libc_malloc` was bound to.
    fn beside_malloc(&self) -> *mut c_void {
        let malloc: unsafe extern "C" fn(usize) -> *mut c_void = __libc_malloc;
        let mut info = MaybeUninit::<libc::Dl_info>::uninit();
        // SAFETY: an address, and room for the answer, which is filled in unless 0 is returned. The loader's string
        // stays valid: the library is in use.
        let name = unsafe {
            if libc::dladdr(malloc as *const c_void, info.as_mut_ptr()) == 0 {
                return ptr::null_mut();
            }
            CStr::from_ptr(info.assume_init().dli_fname)
        };
        self.in_library(name)
    }

    /// The definition in a library, if that is loaded.
    fn in_library(&self, library: &CStr) -> *mut c_void {
        // SAFETY: C strings. Nothing is loaded, and the handle need not be closed: its library is in use.
        unsafe {
            let handle = libc::dlopen(library.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD);
            if handle.is_null() { ptr::null_mut() } else { libc::dlsym(handle, self.name.as_ptr()) }
        }
    }
}

static USABLE_SIZE: Function = Function::of_large(c"malloc_usable_size");

/// Looks up the functions that must not be looked up while a block is freed or moved, and makes glibc's malloc set
/// itself up. Otherwise malloc's first call would do so, in any thread, and in glibc 2.36 that is a cancellation point
/// (`getrandom`).
pub(crate) fn look_ahead() {
    /// glibc's `struct mallinfo`.
    type Info = [c_int; 10];
    static INFO: Function = Function::of_libc(c"mallinfo");
    USABLE_SIZE.address();
    let info = INFO.address();
    if !info.is_null() {
        // SAFETY: the C library's function of that name and type. It sets up, and takes no memory.
        unsafe {
            let info: unsafe extern "C" fn() -> Info = core::mem::transmute(info);
            info();
        }
    }
}

/// The bytes of a block of ours above 512 bytes, or of a block of the large allocator; `None` before the library is
/// loaded completely.
///
/// # Safety
/// `start` is such a block, in the caller's hands.
pub(crate) unsafe fn usable_bytes(start: *mut c_void) -> Option<usize> {
    raw::check_large(start);
    if let Some(place) = MediumPlace::of_address(start) {
        return Some(place.block_bytes());
    }
    let next = USABLE_SIZE.known();
    // SAFETY: the function of that name and type, of the allocator that made the block.
    (!next.is_null()).then(|| unsafe {
        let next: unsafe extern "C" fn(*mut c_void) -> usize = core::mem::transmute(next);
        next(start)
    })
}
