//! Linux: `mmap`, `madvise`, futexes, pthread keys and `pthread_atfork`.

use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

pub(crate) const SUPPORTED: bool = true;

pub(crate) fn page_bytes() -> usize {
    static BYTES: AtomicUsize = AtomicUsize::new(0);
    // Relaxed: a number that is the same whoever asks; asking twice does no harm.
    let known = BYTES.load(Ordering::Relaxed);
    if known != 0 {
        return known;
    }
    // SAFETY: sysconf has no preconditions.
    let bytes = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096);
    BYTES.store(bytes, Ordering::Relaxed);
    bytes
}

fn map_anywhere(bytes: usize) -> Option<NonNull<u8>> {
    // SAFETY: a new private anonymous mapping at an address of the kernel's choice disturbs nothing.
    let start = unsafe {
        libc::mmap(
            ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if start == libc::MAP_FAILED { None } else { NonNull::new(start.cast()) }
}

pub(crate) fn map(bytes: usize, align: usize) -> Option<NonNull<u8>> {
    let _errno = KeepErrno::new();
    let start = map_anywhere(bytes)?;
    if start.addr().get().is_multiple_of(align) {
        return Some(start);
    }
    // SAFETY: mapped just above, not used yet.
    unsafe { unmap(start, bytes) };
    // More than is needed, then cut at both ends: works whatever the kernel chooses.
    let wide_bytes = bytes.checked_add(align)?;
    let wide = map_anywhere(wide_bytes)?;
    let head_bytes = wide.addr().get().next_multiple_of(align) - wide.addr().get();
    // SAFETY: `head_bytes <= align`, so the aligned range and both rests lie inside the mapping; rests of whole
    // OS pages, because start, `bytes` and `align` are. A rest that the kernel keeps is address space lost, no more.
    unsafe {
        let start = wide.add(head_bytes);
        if head_bytes > 0 {
            unmap(wide, head_bytes);
        }
        if align > head_bytes {
            unmap(start.add(bytes), align - head_bytes);
        }
        Some(start)
    }
}

/// Keeps `errno` as it was: neither a free nor an allocation that succeeds may change it.
struct KeepErrno(libc::c_int);

impl KeepErrno {
    fn new() -> Self {
        // SAFETY: libc's own thread-local.
        Self(unsafe { *libc::__errno_location() })
    }
}

impl Drop for KeepErrno {
    fn drop(&mut self) {
        // SAFETY: libc's own thread-local.
        unsafe { *libc::__errno_location() = self.0 };
    }
}

pub(crate) unsafe fn unmap(start: NonNull<u8>, bytes: usize) -> bool {
    let _errno = KeepErrno::new();
    // SAFETY: the caller gives up the range.
    unsafe { libc::munmap(start.as_ptr().cast(), bytes) == 0 }
}

pub(crate) unsafe fn purge(start: NonNull<u8>, bytes: usize) -> bool {
    let _errno = KeepErrno::new();
    // MADV_DONTNEED, not MADV_FREE: the memory leaves the process's RSS at once and reads as zero afterwards.
    // SAFETY: the caller gives up the range's contents.
    unsafe { libc::madvise(start.as_ptr().cast(), bytes, libc::MADV_DONTNEED) == 0 }
}

pub(crate) unsafe fn advise_huge(start: NonNull<u8>, bytes: usize, huge: bool) {
    let _errno = KeepErrno::new();
    let advice = if huge { libc::MADV_HUGEPAGE } else { libc::MADV_NOHUGEPAGE };
    // A kernel without huge pages refuses: nothing is lost.
    // SAFETY: advice on the size of pages changes no contents.
    unsafe { libc::madvise(start.as_ptr().cast(), bytes, advice) };
}

pub(crate) unsafe fn guard(start: NonNull<u8>, bytes: usize) {
    let _errno = KeepErrno::new();
    // A refusal (the kernel's mapping limit) leaves the range accessible: less protection, no harm.
    // SAFETY: nothing uses the range, says the caller.
    unsafe { libc::mprotect(start.as_ptr().cast(), bytes, libc::PROT_NONE) };
}

/// Sleeps while `*word == expected`, until [`futex_wake`]; may return early.
pub(crate) fn futex_wait(word: &AtomicU32, expected: u32) {
    let _errno = KeepErrno::new();
    // SAFETY: the word outlives the call; the kernel only reads it.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
            expected,
            ptr::null::<libc::timespec>(),
        )
    };
}

/// Wakes one thread that sleeps on `word`.
pub(crate) fn futex_wake(word: &AtomicU32) {
    let _errno = KeepErrno::new();
    // SAFETY: the kernel uses the address as a name only.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG, 1) };
}

const KEY_UNSET: usize = usize::MAX;
const KEY_REFUSED: usize = usize::MAX - 1;

/// Has `ended(value)` called when the calling thread ends; `value` is not null.
///
/// A pthread key, whose destructors run after those of C++ and Rust thread-locals. `false` when the process has
/// no key left. The main thread's end calls nothing. All callers pass the same function.
pub(crate) fn on_thread_end(ended: unsafe extern "C" fn(*mut libc::c_void), value: *const ()) -> bool {
    static KEY: AtomicUsize = AtomicUsize::new(KEY_UNSET);
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

/// Keeps the shared library that holds this code loaded for ever: the key's destructor must not go while a thread is left
/// that it is to be called for, and only `dlclose` of the last of them could tell. No need to, in the main program.
fn stay_loaded() {
    // SAFETY: `info` is written by dladdr where that says so, and its name lives as long as the library; opening a library
    // that is loaded already runs nothing.
    #[cfg(not(target_feature = "crt-static"))]
    unsafe {
        let mut info: libc::Dl_info = core::mem::zeroed();
        let here: fn() = stay_loaded;
        let found = libc::dladdr(here as *const libc::c_void, &mut info) != 0;
        let program_start = libc::getauxval(libc::AT_PHDR) as usize & !4095;
        if found && info.dli_fbase.addr() != program_start {
            libc::dlopen(info.dli_fname, libc::RTLD_NOW | libc::RTLD_NOLOAD | libc::RTLD_NODELETE);
        }
    }
}

/// Has the three functions called around every `fork` of the process.
pub(crate) fn on_fork(
    prepare: unsafe extern "C" fn(),
    parent: unsafe extern "C" fn(),
    child: unsafe extern "C" fn(),
) -> bool {
    // SAFETY: functions that live as long as the program.
    unsafe { libc::pthread_atfork(Some(prepare), Some(parent), Some(child)) == 0 }
}

/// Has a function of the crate called when the program is loaded, before `main` and most constructors (those
/// of shared libraries ran earlier).
macro_rules! at_start {
    ($function:ident) => {
        #[used]
        #[unsafe(link_section = ".init_array.00101")]
        static AT_START: extern "C" fn() = $function;
    };
}
pub(crate) use at_start;

/// The addresses of the calling thread's stack. May allocate.
#[cfg(feature = "trace")]
pub(crate) fn stack_bounds() -> Option<(usize, usize)> {
    let _errno = KeepErrno::new();
    // SAFETY: the attributes are written before they are read, and destroyed once.
    unsafe {
        let mut attributes = core::mem::MaybeUninit::<libc::pthread_attr_t>::uninit();
        if libc::pthread_getattr_np(libc::pthread_self(), attributes.as_mut_ptr()) != 0 {
            return None;
        }
        let (mut start, mut bytes) = (ptr::null_mut(), 0);
        let known = libc::pthread_attr_getstack(attributes.as_ptr(), &mut start, &mut bytes) == 0;
        libc::pthread_attr_destroy(attributes.as_mut_ptr());
        known.then(|| (start.addr(), start.addr() + bytes))
    }
}

pub(crate) fn write_stderr(bytes: &[u8]) {
    // SAFETY: a readable buffer of that length. Nobody is left to tell if it fails.
    unsafe { libc::write(libc::STDERR_FILENO, bytes.as_ptr().cast(), bytes.len()) };
}

pub(crate) fn abort() -> ! {
    // SAFETY: no preconditions.
    unsafe { libc::abort() }
}
