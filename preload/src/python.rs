//! CPython's objects, where the program is CPython: its own pymalloc is replaced before the interpreter starts.
//!
//! By default, CPython asks `malloc` only for arenas of its own allocator, so that this library would see none of its
//! objects. `PyMem_SetAllocator` (PEP 445) lets a program choose the functions behind the domains of small requests
//! (`mem`, `obj`), before the first is made. If the program or its libraries define that function when this library is
//! loaded, it is called. If `PYTHONMALLOC` is set, the user has chosen, and nothing is done; so, too, in a
//! free-threaded build, whose garbage collector needs the objects in an allocator of its own (PEP 703).
//!
//! CPython's debug hooks (`-X dev`, `PYTHONDEVMODE`) replace these functions again before anything is allocated.

use core::ffi::{CStr, c_char, c_int, c_void};
use core::ptr;

use crate::c;
use crate::start::variable;

/// `PyMemAllocatorEx`.
#[repr(C)]
struct Functions {
    context: *mut c_void,
    malloc: unsafe extern "C" fn(*mut c_void, usize) -> *mut c_void,
    calloc: unsafe extern "C" fn(*mut c_void, usize, usize) -> *mut c_void,
    realloc: unsafe extern "C" fn(*mut c_void, *mut c_void, usize) -> *mut c_void,
    free: unsafe extern "C" fn(*mut c_void, *mut c_void),
}

/// `PYMEM_DOMAIN_MEM` and `PYMEM_DOMAIN_OBJ`.
const DOMAINS: [c_int; 2] = [1, 2];

/// CPython promises a block of its own even for no bytes.
unsafe extern "C" fn malloc(_: *mut c_void, bytes: usize) -> *mut c_void {
    c::allocate(bytes.max(1))
}

unsafe extern "C" fn calloc(_: *mut c_void, count: usize, bytes: usize) -> *mut c_void {
    let (count, bytes) = if count == 0 || bytes == 0 { (1, 1) } else { (count, bytes) };
    // SAFETY: no preconditions.
    unsafe { c::calloc(count, bytes) }
}

unsafe extern "C" fn realloc(_: *mut c_void, start: *mut c_void, bytes: usize) -> *mut c_void {
    // SAFETY: null, or a block that one of these functions gave CPython.
    unsafe { c::reallocate(start, bytes.max(1)) }
}

unsafe extern "C" fn free(_: *mut c_void, start: *mut c_void) {
    // SAFETY: as in `realloc`.
    unsafe { c::release(start) }
}

/// The function of that name in the program or a library that came with it, or null.
fn find(name: &CStr) -> *mut c_void {
    // SAFETY: a C string.
    unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) }
}

/// Whether the interpreter runs without the global lock. Its version says so, before it has started, too.
fn is_free_threaded() -> bool {
    let version = find(c"Py_GetVersion");
    if version.is_null() {
        return true;
    }
    // SAFETY: CPython's function of that name and type, which returns a C string and may be called at any time.
    let version = unsafe {
        CStr::from_ptr(core::mem::transmute::<*mut c_void, unsafe extern "C" fn() -> *const c_char>(version)())
    };
    version.to_bytes().windows(9).any(|word| word == b"free-thre")
}

/// Serves the interpreter's objects, if the program is CPython and nobody chose otherwise.
pub(crate) fn serve() {
    let set = find(c"PyMem_SetAllocator");
    if set.is_null() || variable(c"PYTHONMALLOC").is_some_and(|value| value != c"") || is_free_threaded() {
        return;
    }
    let mut functions = Functions { context: ptr::null_mut(), malloc, calloc, realloc, free };
    for domain in DOMAINS {
        // SAFETY: CPython's function of that name and type, which copies the table. The interpreter has not started:
        // the program's own code runs after this.
        unsafe {
            core::mem::transmute::<*mut c_void, unsafe extern "C" fn(c_int, *mut Functions)>(set)(
                domain,
                &raw mut functions,
            );
        }
    }
}
