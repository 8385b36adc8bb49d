//! What runs when the library is loaded, before the program's own constructors.
//!
//! # Fork
//! The lock order is: glibc's list of streams → the allocator's locks (`stop`, doors, heap state) → glibc's malloc. The
//! crate's own handlers take the allocator's locks. But `fork` takes the list of streams only after all handlers. A
//! thread that holds the list (as `fflush(NULL)` does) may wait for a stream, whose holder waits for the allocator (as
//! `getline` does). So the list is taken here, before the crate's locks: prepare handlers run in the reverse order of
//! their registration. A thread may take the list's lock twice.

use core::ffi::{CStr, c_char, c_int, c_void};
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use pymalloc_core::raw;

use crate::deep;
use crate::large::{self, Function};
use crate::python;
use crate::report;

unsafe extern "C" {
    fn secure_getenv(name: *const c_char) -> *mut c_char;
}

static FREE_IS_OURS: AtomicBool = AtomicBool::new(false);
static OPERATORS_ARE_OURS: AtomicBool = AtomicBool::new(false);

/// Whether the program calls this library's `free`; `false` until that is known.
#[inline(always)]
pub(crate) fn free_is_ours() -> bool {
    // Relaxed: only a flag; `false` is never wrong.
    FREE_IS_OURS.load(Ordering::Relaxed)
}

/// Whether the program calls this library's basic forms of `operator new` and `delete`, by which C++ defines the
/// others; `false` until that is known. A program may replace some forms only, and then expects the rest to call those.
#[inline(always)]
pub(crate) fn operators_are_ours() -> bool {
    // Relaxed: as above.
    OPERATORS_ARE_OURS.load(Ordering::Relaxed)
}

static FORKS: AtomicU32 = AtomicU32::new(0);

/// A number that differs between a process and each of its forked ancestors. The process's own number would not do: in
/// another namespace, a child may have its parent's.
pub(crate) fn forks() -> u32 {
    // Relaxed: changes only in a child that has one thread.
    FORKS.load(Ordering::Relaxed)
}

/// The value of an environment variable, unless the program runs with another user's rights. It may be called only
/// while the library is being loaded: later the program may change its environment.
pub(crate) fn variable(name: &CStr) -> Option<&'static CStr> {
    // SAFETY: a C string; nothing changes the environment while the library is being loaded.
    unsafe {
        let value = secure_getenv(name.as_ptr());
        (!value.is_null()).then(|| CStr::from_ptr(value))
    }
}

/// Whether the definition of `name` that the program uses is in this library.
///
/// A program that is not position-independent and takes the address of an imported function has that address in its own
/// code: a stub that jumps to the definition. `dlsym` then finds the stub. The definition is in the first library that
/// has the name.
fn is_ours(name: &CStr) -> bool {
    let ours: fn() = look_around;
    let (Some(own), Some(found)) = (place(ours as *mut c_void), look_up(libc::RTLD_DEFAULT, name)) else {
        return false;
    };
    found.base == own.base || found.is_import && is_first(name, own.base)
}

/// Where an address lies.
struct Place {
    /// The address at which its program or library is loaded.
    base: *mut c_void,
    /// Whether the symbol there is defined elsewhere.
    is_import: bool,
}

fn place(address: *mut c_void) -> Option<Place> {
    // SAFETY: all zeroes is a valid value of this struct of pointers.
    let (mut info, mut symbol) = (unsafe { core::mem::zeroed::<libc::Dl_info>() }, ptr::null_mut::<c_void>());
    // SAFETY: places for the answers.
    (unsafe { dladdr1(address, &mut info, &mut symbol, RTLD_DL_SYMENT) } != 0).then(|| Place {
        base: info.dli_fbase,
        // SAFETY: null, or an entry of a table of symbols, which stays while its library does.
        is_import: unsafe { symbol.cast::<libc::Elf64_Sym>().as_ref() }.is_some_and(|symbol| symbol.st_shndx == 0),
    })
}

fn look_up(handle: *mut c_void, name: &CStr) -> Option<Place> {
    // SAFETY: a handle, and a C string.
    let address = unsafe { libc::dlsym(handle, name.as_ptr()) };
    (!address.is_null()).then(|| place(address))?
}

/// Whether no library that comes before ours, which is loaded at `own`, defines `name`.
fn is_first(name: &CStr, own: *mut c_void) -> bool {
    // SAFETY: the program's handle; glibc's handles are entries of the list of what is loaded.
    let mut next = unsafe { open(ptr::null()).cast::<LinkMap>().as_ref() };
    while let Some(library) = next.filter(|library| library.base != own.addr()) {
        if defines(library, name) {
            return false;
        }
        // SAFETY: entries of the list stay while their libraries do.
        next = unsafe { library.next.as_ref() };
    }
    next.is_some()
}

/// Whether a library defines `name`. (The program, which has no path in the list, imports it.)
fn defines(library: &LinkMap, name: &CStr) -> bool {
    // SAFETY: the path of what is loaded, a C string.
    let handle = unsafe { if *library.path == 0 { ptr::null_mut() } else { open(library.path) } };
    if handle.is_null() {
        return false;
    }
    // The look-up begins with the library itself, and goes on in what it depends on.
    let found = look_up(handle, name);
    // SAFETY: opened above.
    unsafe { libc::dlclose(handle) };
    found.is_some_and(|found| found.base.addr() == library.base && !found.is_import)
}

/// A handle of what is loaded already, or null.
///
/// # Safety
/// `path` is null or a C string.
unsafe fn open(path: *const c_char) -> *mut c_void {
    // SAFETY: the caller's promise is the same.
    unsafe { libc::dlopen(path, libc::RTLD_LAZY | libc::RTLD_NOLOAD) }
}

/// The first fields of glibc's `struct link_map` (`link.h`).
#[repr(C)]
struct LinkMap {
    base: usize,
    path: *const c_char,
    dynamic: *const c_void,
    next: *const LinkMap,
}

const RTLD_DL_SYMENT: c_int = 1;

unsafe extern "C" {
    fn dladdr1(address: *const c_void, info: *mut libc::Dl_info, extra: *mut *mut c_void, flags: c_int) -> c_int;
}

fn look_around() {
    // Relaxed (both): only flags.
    FREE_IS_OURS.store(is_ours(c"free") && is_ours(c"malloc"), Ordering::Relaxed);
    let basic = [
        c"_Znwm",
        c"_ZdlPv",
        c"_Znam",
        c"_ZdaPv",
        c"_ZnwmSt11align_val_t",
        c"_ZdlPvSt11align_val_t",
        c"_ZnamSt11align_val_t",
        c"_ZdaPvSt11align_val_t",
    ];
    OPERATORS_ARE_OURS.store(basic.into_iter().all(is_ours), Ordering::Relaxed);
}

extern "C" fn start() {
    large::look_ahead();
    look_around();
    deep::prepare();
    if free_is_ours() {
        python::serve();
    }
    // The hardened library checks by itself, and needs the caches for its quarantine.
    if !cfg!(feature = "hardened") && variable(c"PYMALLOC_HARDENED").is_some_and(|value| value != c"" && value != c"0")
    {
        raw::check_at_the_call();
    }
    report::prepare();
    #[cfg(feature = "trace")]
    crate::trace::start();
    #[cfg(feature = "trace")]
    crate::graph::start();
    STREAMS.iter().for_each(|function| {
        function.address();
    });
    // If there is no memory for the registration, a fork may hang amid busy streams, as without this handler.
    // SAFETY: functions that live as long as the program, because the library is never unloaded.
    unsafe { libc::pthread_atfork(Some(prepare), Some(parent), Some(child)) };
}

// After the crate's own entry, `.init_array.00101`, which registers its handlers.
#[used]
#[unsafe(link_section = ".init_array.00102")]
static AT_START: extern "C" fn() = start;

/// glibc's functions to lock the list of streams, unlock it, and, in a child, make its lock anew.
static STREAMS: [Function; 3] = [
    Function::of_libc(c"_IO_list_lock"),
    Function::of_libc(c"_IO_list_unlock"),
    Function::of_libc(c"_IO_list_resetlock"),
];

fn call(function: usize) {
    let found = STREAMS.iter().map(Function::known);
    if found.clone().any(|address| address.is_null()) {
        return;
    }
    if let Some(address) = found.clone().nth(function) {
        // SAFETY: functions of glibc's of these names and that type.
        unsafe { core::mem::transmute::<*mut c_void, unsafe extern "C" fn()>(address)() }
    }
}

unsafe extern "C" fn prepare() {
    call(0);
}

unsafe extern "C" fn parent() {
    call(1);
}

/// The child has one thread. `fork` has made the lock anew already if the parent had more.
unsafe extern "C" fn child() {
    // Relaxed: as in `forks`.
    FORKS.fetch_add(1, Ordering::Relaxed);
    call(2);
}
