//! Linux: `mmap`, `madvise`, futexes, pthread keys and `pthread_atfork`.

use core::ffi::CStr;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use super::MemoryRange;

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

const READ_WRITE: libc::c_int = libc::PROT_READ | libc::PROT_WRITE;

fn map_anywhere(bytes: usize, access: libc::c_int) -> Option<NonNull<u8>> {
    // SAFETY: a new private anonymous mapping at an address of the kernel's choice disturbs nothing.
    let start = unsafe { libc::mmap(ptr::null_mut(), bytes, access, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0) };
    if start == libc::MAP_FAILED { None } else { NonNull::new(start.cast()) }
}

#[unsafe(link_section = ".text_pymalloc")]
pub(crate) fn map(bytes: usize, align: usize) -> Option<NonNull<u8>> {
    map_with(bytes, align, READ_WRITE)
}

#[unsafe(link_section = ".text_pymalloc")]
pub(crate) fn map_guarded(bytes: usize, guard_bytes: usize) -> Option<NonNull<u8>> {
    let _errno = KeepErrno::new();
    let all_bytes = bytes.checked_add(2 * guard_bytes)?;
    let guard = map_with(all_bytes, guard_bytes, libc::PROT_NONE)?;
    // SAFETY: inside the mapping just made; opening what lies between the guards is one call less than closing two.
    unsafe {
        let start = guard.add(guard_bytes);
        if libc::mprotect(start.as_ptr().cast(), bytes, READ_WRITE) == 0 {
            return Some(start);
        }
        // The kernel's limit on mappings: less protection then, no harm.
        unmap(guard, all_bytes);
        Some(map(all_bytes, guard_bytes)?.add(guard_bytes))
    }
}

#[unsafe(link_section = ".text_pymalloc")]
fn map_with(bytes: usize, align: usize, access: libc::c_int) -> Option<NonNull<u8>> {
    let _errno = KeepErrno::new();
    let start = map_anywhere(bytes, access)?;
    if start.addr().get().is_multiple_of(align) {
        return Some(start);
    }
    // SAFETY: mapped just above, not used yet.
    unsafe { unmap(start, bytes) };
    // More than is needed, then cut at both ends: works whatever the kernel chooses.
    let wide_bytes = bytes.checked_add(align)?;
    let wide = map_anywhere(wide_bytes, access)?;
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

/// Purges `ranges` by one call where the kernel has it for the caller's own memory (Linux 6.14): one look at the process and, in
/// newer ones, one flush of translations on each of its CPUs for all. By a call each where it has not, or a sandbox refuses.
pub(crate) unsafe fn purge_each(ranges: &[MemoryRange]) -> usize {
    /// Not in the C library's headers yet.
    const PIDFD_SELF: libc::c_int = -10_000;
    /// Whether the kernel was seen to refuse the call for ranges that it purges one by one.
    static REFUSED: AtomicBool = AtomicBool::new(false);

    let _errno = KeepErrno::new();
    let mut purged = 0;
    // Relaxed: a hint; asking in vain does no harm.
    // Not for valgrind, which warns of system calls that it does not know.
    let at_once = ranges.len() > 1 && !cfg!(feature = "valgrind") && !REFUSED.load(Ordering::Relaxed);
    if at_once {
        // SAFETY: the caller gives up the ranges' contents; a range is laid out as an `iovec`.
        let bytes = unsafe {
            libc::syscall(
                libc::SYS_process_madvise,
                PIDFD_SELF,
                ranges.as_ptr(),
                ranges.len(),
                libc::MADV_DONTNEED,
                0 as libc::c_uint,
            )
        };
        let mut advised = usize::try_from(bytes).unwrap_or(0);
        let is_whole = |range: &&MemoryRange| {
            let rest = advised.checked_sub(range.bytes);
            advised = rest.unwrap_or(0);
            rest.is_some()
        };
        purged = ranges.iter().take_while(is_whole).count();
    }
    let none_at_once = at_once && purged == 0;
    // SAFETY: as above.
    let is_purged =
        |range: &&MemoryRange| NonNull::new(range.start).is_some_and(|start| unsafe { purge(start, range.bytes) });
    purged += ranges[purged..].iter().take_while(is_purged).count();
    if none_at_once && purged > 0 {
        REFUSED.store(true, Ordering::Relaxed);
    }
    purged
}

pub(crate) unsafe fn advise_huge(start: NonNull<u8>, bytes: usize, huge: bool) {
    let _errno = KeepErrno::new();
    let advice = if huge { libc::MADV_HUGEPAGE } else { libc::MADV_NOHUGEPAGE };
    // A kernel without huge pages refuses: nothing is lost.
    // SAFETY: advice on the size of pages changes no contents.
    unsafe { libc::madvise(start.as_ptr().cast(), bytes, advice) };
}

pub(crate) unsafe fn populate(start: NonNull<u8>, bytes: usize) {
    let _errno = KeepErrno::new();
    // A kernel before 5.14 refuses, and so does one that is short of memory: pages come at the first access then.
    // SAFETY: contents stay as they are.
    unsafe { libc::madvise(start.as_ptr().cast(), bytes, libc::MADV_POPULATE_WRITE) };
}

/// Has glibc's `malloc` keep twice as many `bytes` at the end of a heap when they are free, if it kept fewer.
///
/// It gives free memory at the end of a heap back once that is more than a threshold, at first 128 KiB. A block that is larger
/// than another threshold it maps by itself; when it is freed, both thresholds rise: that one to the block's size, the first
/// to twice that (glibc's malloc.c, "dynamic mmap threshold", up to 32 MiB). Unlike `mallopt`, a block leaves them free
/// to rise further, and alone where the program has set them.
#[cfg(all(target_env = "gnu", not(feature = "raw")))]
pub(crate) fn let_malloc_keep(bytes: usize) {
    const BYTES_MAX: usize = (32 << 20) - (64 << 10);
    let _errno = KeepErrno::new();
    // The black box, or else the compiler would leave both calls out.
    // SAFETY: the block is freed once, or null.
    unsafe { libc::free(core::hint::black_box(libc::malloc(bytes.min(BYTES_MAX)))) };
}

/// Other C libraries have no such thresholds; in the preload library `malloc` is ours, and CPython's programs gained nothing.
#[cfg(not(all(target_env = "gnu", not(feature = "raw"))))]
pub(crate) fn let_malloc_keep(_bytes: usize) {}

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
/// The pthread key by which ends of threads are learned.
static KEY: AtomicUsize = AtomicUsize::new(KEY_UNSET);

/// Has `ended(value)` called when the calling thread ends; `value` is not null.
///
/// A pthread key, whose destructors run after those of C++ and Rust thread-locals (with musl, if asked a second time:
/// [`end_is_told_again`]). `false` when the process has no key left. The main thread's end calls nothing. All callers pass
/// the same function, and an even address.
#[unsafe(link_section = ".text_pymalloc")]
pub(crate) fn on_thread_end(ended: unsafe extern "C" fn(*mut libc::c_void), value: *const ()) -> bool {
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

/// Whether the thread's end that `value` tells of is told once more, in the next round of destructors: `true` the first
/// time with musl, else `false`.
///
/// glibc destroys thread-locals before it calls any key's destructor. With musl, std destroys them by a key of its own, and
/// keys are called in the order in which they were made: the allocator's first, because a program allocates before it has
/// a thread-local to destroy. What these free then should still find the thread's cache.
pub(crate) fn end_is_told_again(value: *mut libc::c_void) -> bool {
    // The value's lowest bit says that this is the second time.
    if !cfg!(target_env = "musl") || value.addr() & 1 != 0 {
        return false;
    }
    // Acquire: as in `on_thread_end`.
    let key = KEY.load(Ordering::Acquire) as libc::pthread_key_t;
    // SAFETY: the key whose destructor was called with `value`; keys are never deleted.
    unsafe { libc::pthread_setspecific(key, value.map_addr(|address| address | 1)) == 0 }
}

/// Keeps the shared library that holds this code loaded for ever: the key's destructor must not go while a thread is left
/// that it is to be called for, and only `dlclose` of the last of them could tell. No need to, in the main program; and with
/// the feature `raw` the library is linked to stay, because this may run inside the dynamic linker.
fn stay_loaded() {
    // SAFETY: `info` is written by dladdr where that says so, and its name lives as long as the library; opening a library
    // that is loaded already runs nothing.
    #[cfg(not(any(target_feature = "crt-static", feature = "raw")))]
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

/// Runs `body` with all signals blocked: a thread that it starts never runs the program's signal handlers.
pub(crate) fn with_signals_blocked<R>(body: impl FnOnce() -> R) -> R {
    // SAFETY: plain data, of which zero is a valid value.
    let (mut all, mut before): (libc::sigset_t, libc::sigset_t) = unsafe { core::mem::zeroed() };
    // SAFETY: both write to what is ours.
    unsafe {
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
    }
    let result = body();
    // SAFETY: the mask from before.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &before, ptr::null_mut()) };
    result
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

/// The addresses of the calling thread's stack, or more above it. Allocates nothing, and asks for no lock: in the preload
/// library this is called inside `malloc`, also of `pthread_getattr_np`, which has a lock of its own meanwhile.
#[cfg(all(feature = "trace", feature = "raw"))]
pub(crate) fn stack_bounds() -> Option<(usize, usize)> {
    /// The main thread's grows, so that its mapping is not all of it; the kernel keeps more than that free below.
    const GROWTH_BYTES: usize = 64 << 20;
    let _errno = KeepErrno::new();
    let here = 0_u8;
    let address = (&raw const here).addr();
    // SAFETY: a C string.
    let maps = unsafe { libc::open(c"/proc/self/maps".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    if maps < 0 {
        return None;
    }
    let mut search = MapsSearch::new(address);
    let mut found = None;
    let mut buffer = [0_u8; 1024];
    loop {
        // SAFETY: a writable buffer of that length.
        let bytes = unsafe { libc::read(maps, buffer.as_mut_ptr().cast(), buffer.len()) };
        let Ok(bytes @ 1..) = usize::try_from(bytes) else { break };
        found = buffer.iter().take(bytes).find_map(|&byte| search.next(byte));
        if found.is_some() {
            break;
        }
    }
    // SAFETY: opened above.
    unsafe { libc::close(maps) };
    let is_main = thread_id() == process_id();
    found.map(|(start, end)| (if is_main { start.saturating_sub(GROWTH_BYTES) } else { start }, end))
}

/// Finds the mapping of an address in `/proc/self/maps`, byte by byte.
#[cfg(all(feature = "trace", feature = "raw"))]
struct MapsSearch {
    address: usize,
    /// The line's numbers so far.
    start: usize,
    end: usize,
    /// 0 in the first number, 1 in the second, 2 behind both.
    field: u8,
}

#[cfg(all(feature = "trace", feature = "raw"))]
impl MapsSearch {
    const fn new(address: usize) -> Self {
        Self { address, start: 0, end: 0, field: 0 }
    }

    fn next(&mut self, byte: u8) -> Option<(usize, usize)> {
        let digit = char::from(byte).to_digit(16).unwrap_or(0) as usize;
        match (self.field, byte) {
            (_, b'\n') => *self = Self::new(self.address),
            (0, b'-') => self.field = 1,
            (1, b' ') => self.field = 2,
            (0, _) => self.start = self.start << 4 | digit,
            (1, _) => self.end = self.end << 4 | digit,
            _ => {}
        }
        let complete = self.field == 2 && byte == b' ' && (self.start..self.end).contains(&self.address);
        complete.then_some((self.start, self.end))
    }
}

/// The addresses of the calling thread's stack. May allocate.
#[cfg(all(feature = "trace", not(feature = "raw")))]
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

/// The value of an environment variable. Only before `main`: later, the program may change its environment meanwhile.
pub(crate) fn environment(name: &CStr) -> Option<&'static [u8]> {
    // SAFETY: a name that ends in a zero byte; before main nobody changes the environment.
    let value = unsafe { libc::getenv(name.as_ptr()) };
    // SAFETY: a string of the environment, which ends in a zero byte, and stays.
    (!value.is_null()).then(|| unsafe { CStr::from_ptr(value) }.to_bytes())
}

/// Has `function` called when the program exits, by `exit` or the end of `main`.
pub(crate) fn on_exit(function: extern "C" fn()) -> bool {
    // SAFETY: a function that lives as long as the program.
    unsafe { libc::atexit(function) == 0 }
}

/// The number of a signal that programs use for their own purposes, by its name without `SIG`.
pub(crate) fn signal_number(name: &[u8]) -> Option<libc::c_int> {
    match name {
        b"USR1" => Some(libc::SIGUSR1),
        b"USR2" => Some(libc::SIGUSR2),
        b"QUIT" => Some(libc::SIGQUIT),
        b"HUP" => Some(libc::SIGHUP),
        _ => None,
    }
}

/// Has `function` called on a signal, and interrupted system calls go on.
pub(crate) fn on_signal(signal: libc::c_int, function: extern "C" fn(libc::c_int)) -> bool {
    // SAFETY: all zero is a valid action; the handler is a function that lives as long as the program.
    unsafe {
        let mut action: libc::sigaction = core::mem::zeroed();
        action.sa_sigaction = function as *const () as libc::sighandler_t;
        action.sa_flags = libc::SA_RESTART;
        libc::sigaction(signal, &action, ptr::null_mut()) == 0
    }
}

/// The kernel's number of the calling thread.
pub(crate) fn thread_id() -> u32 {
    // By its number, because the function is missing in older C libraries.
    // SAFETY: no preconditions.
    unsafe { libc::syscall(libc::SYS_gettid) as u32 }
}

/// The number of this process; not 0.
pub(crate) fn process_id() -> u32 {
    // SAFETY: no preconditions.
    unsafe { libc::getpid() }.cast_unsigned()
}

/// Asks the C library's `malloc`; `None` if it has no `mallinfo2`, or the program is linked statically.
pub(crate) fn system_malloc() -> Option<super::SystemMalloc> {
    #[cfg(all(target_env = "gnu", not(target_feature = "crt-static")))]
    {
        let _errno = KeepErrno::new();
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
        Some(super::SystemMalloc { bytes_live: info.uordblks + info.hblkhd, bytes_free: info.fordblks })
    }
    #[cfg(not(all(target_env = "gnu", not(target_feature = "crt-static"))))]
    None
}

/// A number that nobody outside can foretell; less good (the loader's number of this process, and an address) before the
/// kernel has gathered any randomness, or where it refuses.
#[cfg(feature = "hardened")]
pub(crate) fn random_number() -> u64 {
    let _errno = KeepErrno::new();
    let mut number = [0_u8; 8];
    // SAFETY: writable, of that length. By the system call's number: C libraries before glibc 2.25 have no function for it.
    let got = unsafe { libc::syscall(libc::SYS_getrandom, number.as_mut_ptr(), number.len(), libc::GRND_NONBLOCK) };
    if got == 8 {
        return u64::from_ne_bytes(number);
    }
    // SAFETY: no preconditions; where the kernel gives an address, 16 bytes are there for as long as the process lives.
    let of_process = unsafe {
        let place = ptr::with_exposed_provenance::<[u8; 8]>(libc::getauxval(libc::AT_RANDOM) as usize);
        place.as_ref().map_or(0, |bytes| u64::from_ne_bytes(*bytes))
    };
    of_process ^ ((&raw const number).addr() as u64).rotate_left(32)
}

pub(crate) fn write_stderr(bytes: &[u8]) {
    let _errno = KeepErrno::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        // SAFETY: a readable buffer of that length.
        let written = unsafe { libc::write(libc::STDERR_FILENO, rest.as_ptr().cast(), rest.len()) };
        match usize::try_from(written) {
            Ok(written) => rest = rest.get(written..).unwrap_or_default(),
            // SAFETY: libc's own thread-local.
            Err(_) if unsafe { *libc::__errno_location() } == libc::EINTR => {}
            // Nobody is left to tell.
            Err(_) => return,
        }
    }
}

pub(crate) fn abort() -> ! {
    // SAFETY: no preconditions.
    unsafe { libc::abort() }
}
