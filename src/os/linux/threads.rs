//! Threads: their ends, their numbers, and the allocator's own threads.

use core::ffi::{CStr, c_int, c_void};
use core::mem::MaybeUninit;
use core::ptr;
use core::sync::atomic::{AtomicUsize, Ordering};

use super::KeepErrno;

const KEY_UNSET: usize = usize::MAX;
const KEY_REFUSED: usize = usize::MAX - 1;
/// The pthread key that tells of threads' ends.
static KEY: AtomicUsize = AtomicUsize::new(KEY_UNSET);

/// Makes `ended(value)` run when the calling thread ends; `value` is not null.
///
/// It uses a pthread key, whose destructors run after those of C++ and Rust thread-locals (with musl, if asked for a
/// second time: [`end_is_told_again`]). Returns `false` when the process has no key left. The main thread's end calls
/// nothing. All callers pass the same function, and an even address.
#[unsafe(link_section = ".text_pymalloc")]
pub(crate) fn on_thread_end(ended: unsafe extern "C" fn(*mut c_void), value: *const ()) -> bool {
    let _errno = KeepErrno::new();
    // Acquire: pairs with the Release below; libc need not publish its own table's entry.
    let mut key = KEY.load(Ordering::Acquire);
    if key == KEY_UNSET {
        let mut new: libc::pthread_key_t = 0;
        // SAFETY: `new` is writable; `ended` is a function and stays one.
        let made = unsafe { libc::pthread_key_create(&mut new, Some(ended)) == 0 };
        let wanted = if made { new as usize } else { KEY_REFUSED };
        // Release: the key is made before another thread sees its number. Acquire: as above.
        match KEY.compare_exchange(KEY_UNSET, wanted, Ordering::Release, Ordering::Acquire) {
            Ok(_) => {
                key = wanted;
                stay_loaded();
            }
            Err(first) => {
                key = first;
                if made {
                    // SAFETY: this key was never used.
                    unsafe { libc::pthread_key_delete(new) };
                }
            }
        }
    }
    // SAFETY: a key that was created and never deleted.
    key != KEY_REFUSED && unsafe { libc::pthread_setspecific(key as libc::pthread_key_t, value.cast()) == 0 }
}

/// Whether the thread's end will be told once more, in the next round of destructors: with musl `true` the first time,
/// otherwise `false`. `value` is the value that the destructor got.
///
/// glibc destroys thread-locals before it calls any key's destructor. With musl, std destroys them by a key of its own.
/// musl calls keys in the order in which they were made: the allocator's first, because a program allocates before it
/// has a thread-local to destroy. But the thread's cache should still be there when thread-locals free their blocks.
pub(crate) fn end_is_told_again(value: *mut c_void) -> bool {
    // The value's lowest bit says that this is the second time.
    if !cfg!(target_env = "musl") || value.addr() & 1 != 0 {
        return false;
    }
    // Acquire: as in `on_thread_end`.
    let key = KEY.load(Ordering::Acquire) as libc::pthread_key_t;
    // SAFETY: the key whose destructor was called with `value`; keys are never deleted.
    unsafe { libc::pthread_setspecific(key, value.map_addr(|address| address | 1)) == 0 }
}

/// Keeps the shared library that holds this code loaded for ever. The key's destructor must stay as long as there is a
/// thread for which it has to be called, and nothing tells when the last of them is gone. The main program stays
/// anyway. With the feature `__raw`, the library is linked so that it stays, because this may run inside the dynamic
/// linker.
fn stay_loaded() {
    // SAFETY: `info` is read only if `dladdr` says that it wrote it. Its name lives as long as the library. Opening a
    // library that is loaded already runs no code.
    #[cfg(not(any(target_feature = "crt-static", feature = "__raw")))]
    unsafe {
        let mut info: libc::Dl_info = core::mem::zeroed();
        let here: fn() = stay_loaded;
        let found = libc::dladdr(here as *const c_void, &mut info) != 0;
        let program_start = libc::getauxval(libc::AT_PHDR) as usize & !4095;
        if found && info.dli_fbase.addr() != program_start {
            libc::dlopen(info.dli_fname, libc::RTLD_NOW | libc::RTLD_NOLOAD | libc::RTLD_NODELETE);
        }
    }
}

/// The kernel's number of the calling thread.
pub(crate) fn thread_id() -> u32 {
    // By the call's number, because older C libraries lack the function.
    // SAFETY: no preconditions.
    unsafe { libc::syscall(libc::SYS_gettid) as u32 }
}

/// A number that no other thread of the process has at the same time; never 0. A forked child's thread keeps its
/// parent's.
pub(crate) fn thread_token() -> usize {
    // SAFETY: no preconditions. With glibc and musl it is an address.
    unsafe { libc::pthread_self() as usize }
}

/// The stack that one of the allocator's own threads needs, also in an unoptimised build. The C library puts the
/// program's thread-locals on it, too.
const OWN_STACK_BYTES: usize = 256 << 10;

/// A thread of the allocator's own.
pub(crate) struct OwnThread(libc::pthread_t);

// SAFETY: it names a thread, which any other thread may join or detach (musl's is a pointer).
unsafe impl Send for OwnThread {}
// SAFETY: as above; a shared reference allows nothing.
unsafe impl Sync for OwnThread {}

/// Starts a thread that runs `body(argument)`, blocks all signals (except the one that stops threads for a graph of the
/// heap, feature `graph`), and has a small stack. It uses the C library only: std's function takes locks, and in a
/// forked child a lock may be held by a thread that does not exist there.
///
/// # Errors
/// The system's number of the error.
pub(crate) fn start_thread(
    body: extern "C" fn(*mut c_void) -> *mut c_void,
    argument: *mut c_void,
) -> Result<OwnThread, c_int> {
    // If the program's thread-locals leave no room, the thread gets a stack of the system's usual size.
    match with_signals_blocked(|| start_with_stack(Some(OWN_STACK_BYTES), body, argument)) {
        Err(libc::EINVAL) => with_signals_blocked(|| start_with_stack(None, body, argument)),
        done => done,
    }
}

fn start_with_stack(
    stack_bytes: Option<usize>,
    body: extern "C" fn(*mut c_void) -> *mut c_void,
    argument: *mut c_void,
) -> Result<OwnThread, c_int> {
    let mut attributes = MaybeUninit::<libc::pthread_attr_t>::uninit();
    let mut thread = MaybeUninit::<libc::pthread_t>::uninit();
    // SAFETY: the attributes are made, used and destroyed once each. The thread's name is written if the thread was
    // started.
    unsafe {
        let error = libc::pthread_attr_init(attributes.as_mut_ptr());
        if error != 0 {
            return Err(error);
        }
        if let Some(stack_bytes) = stack_bytes {
            // If the system refuses this size, the usual size stays.
            libc::pthread_attr_setstacksize(attributes.as_mut_ptr(), stack_bytes);
        }
        let error = libc::pthread_create(thread.as_mut_ptr(), attributes.as_ptr(), body, argument);
        libc::pthread_attr_destroy(attributes.as_mut_ptr());
        if error == 0 { Ok(OwnThread(thread.assume_init())) } else { Err(error) }
    }
}

impl OwnThread {
    /// Waits until the thread has ended.
    pub(crate) fn join(self) {
        // SAFETY: a thread that is joined once, and was not detached.
        unsafe { libc::pthread_join(self.0, ptr::null_mut()) };
    }

    /// Lets the thread end by itself.
    pub(crate) fn detach(self) {
        // SAFETY: a thread that is neither joined nor detached yet.
        unsafe { libc::pthread_detach(self.0) };
    }

    /// What such a thread calls first: gives it a name of at most 15 bytes, for debuggers.
    pub(crate) fn begin(name: &CStr) {
        // SAFETY: a C string, which the kernel copies.
        unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0) };
        #[cfg(feature = "graph")]
        super::tasks::let_stop_this_thread();
    }
}

/// Runs `body` with all signals blocked: a thread that it starts never runs the program's signal handlers.
fn with_signals_blocked<R>(body: impl FnOnce() -> R) -> R {
    with_other_signals_blocked(None, body)
}

/// Runs `body` with all signals blocked, except `signal` if it is not blocked already.
pub(super) fn with_other_signals_blocked<R>(signal: Option<c_int>, body: impl FnOnce() -> R) -> R {
    // SAFETY: plain data, of which zero is a valid value.
    let (mut others, mut before): (libc::sigset_t, libc::sigset_t) = unsafe { core::mem::zeroed() };
    // SAFETY: all read and write what is ours.
    unsafe {
        libc::sigfillset(&mut others);
        if let Some(signal) = signal {
            libc::sigdelset(&mut others, signal);
        }
        // Blocks more, and unblocks none.
        libc::pthread_sigmask(libc::SIG_BLOCK, &others, &mut before);
    }
    let result = body();
    // SAFETY: the mask from before.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &before, ptr::null_mut()) };
    result
}
