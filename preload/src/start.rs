//! What runs when the library is loaded, before the program's own constructors.
//!
//! # Fork
//! The lock order is: glibc's list of streams → the allocator's locks (`stop`, doors, heap state) → glibc's malloc. The
//! crate's own handlers take the allocator's locks. But `fork` takes the list of streams only after all handlers. A
//! thread that holds the list (as `fflush(NULL)` does) may wait for a stream, whose holder waits for the allocator (as
//! `getline` does). So the list is taken here, before the crate's locks: prepare handlers run in the reverse order of
//! their registration. A thread may take the list's lock twice.

use core::ffi::{CStr, c_char, c_void};
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use pymalloc_core::raw;

use crate::deep;
use crate::large::{self, Function};
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
fn is_ours(name: &CStr) -> bool {
    let ours: fn() = look_around;
    // SAFETY: C strings, and places for the answers.
    unsafe {
        let found = libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr());
        let (mut theirs, mut own) = (core::mem::zeroed::<libc::Dl_info>(), core::mem::zeroed::<libc::Dl_info>());
        libc::dladdr(found, &mut theirs) != 0
            && libc::dladdr(ours as *const c_void, &mut own) != 0
            && theirs.dli_fbase == own.dli_fbase
    }
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
