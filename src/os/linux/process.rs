//! The process: its start, environment, forks, signals and end.

use core::ffi::CStr;
use core::ptr;

#[cfg(any(feature = "hardened", feature = "trace"))]
use super::KeepErrno;
#[cfg(feature = "trace")]
use super::files::Descriptor;

/// Registers a function of the crate to run when the program is loaded, before `main` and most constructors (those of
/// shared libraries ran earlier).
macro_rules! at_start {
    ($function:ident) => {
        #[used]
        #[unsafe(link_section = ".init_array.00101")]
        static AT_START: extern "C" fn() = $function;
    };
}
pub(crate) use at_start;

/// Registers a function of the crate to run when the program exits, by `exit` or the end of `main`. It runs after all
/// functions of `atexit`, and after other destructors of the same program or library.
macro_rules! at_end {
    ($function:ident) => {
        #[used]
        #[unsafe(link_section = ".fini_array.00101")]
        static AT_END: extern "C" fn() = $function;
    };
}
pub(crate) use at_end;

/// Registers a function of the crate to run when the process exits and no other thread is left: on Linux, never.
macro_rules! when_alone {
    ($function:ident) => {
        const _: extern "C" fn() = $function;
    };
}
pub(crate) use when_alone;

/// Registers the three functions to run around every `fork` of the process.
pub(crate) fn on_fork(
    prepare: unsafe extern "C" fn(),
    parent: unsafe extern "C" fn(),
    child: unsafe extern "C" fn(),
) -> bool {
    // SAFETY: functions that live as long as the program.
    unsafe { libc::pthread_atfork(Some(prepare), Some(parent), Some(child)) == 0 }
}

/// The value of an environment variable. To be called only before `main`: later, the program may change its environment
/// meanwhile.
pub(crate) fn environment(name: &CStr) -> Option<&'static [u8]> {
    // SAFETY: a name that ends in a zero byte; before `main` nothing changes the environment.
    let value = unsafe { libc::getenv(name.as_ptr()) };
    // SAFETY: a string of the environment, which ends in a zero byte, and stays.
    (!value.is_null()).then(|| unsafe { CStr::from_ptr(value) }.to_bytes())
}

/// Registers `function` to run when the program exits, by `exit` or the end of `main`.
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

/// Makes `function` the handler of a signal. System calls that the signal interrupts are restarted.
pub(crate) fn on_signal(signal: libc::c_int, function: extern "C" fn(libc::c_int)) -> bool {
    // SAFETY: all zero is a valid action; the handler is a function that lives as long as the program.
    unsafe {
        let mut action: libc::sigaction = core::mem::zeroed();
        action.sa_sigaction = function as *const () as libc::sighandler_t;
        action.sa_flags = libc::SA_RESTART;
        libc::sigaction(signal, &action, ptr::null_mut()) == 0
    }
}

/// The number of this process; not 0.
pub(crate) fn process_id() -> u32 {
    // SAFETY: no preconditions.
    unsafe { libc::getpid() }.cast_unsigned()
}

/// Writes the path of the working directory, and returns its length. Allocates nothing.
#[cfg(feature = "trace")]
pub(crate) fn working_directory(buffer: &mut [u8]) -> Option<usize> {
    let _errno = KeepErrno::new();
    // SAFETY: writable, of that length. By the system call's number: libc's function may allocate.
    let bytes = unsafe { libc::syscall(libc::SYS_getcwd, buffer.as_mut_ptr(), buffer.len()) };
    // The kernel counts the null byte at the end. A path that does not begin with a slash is outside the process's
    // root.
    let len = usize::try_from(bytes).ok()?.checked_sub(1)?;
    buffer.starts_with(b"/").then_some(len)
}

/// Bytes of the process that have memory now, as the OS says; 0 if it does not tell. Allocates nothing.
#[cfg(feature = "trace")]
pub(crate) fn resident_set_bytes() -> usize {
    let mut text = [0; 128];
    let Ok(file) = Descriptor::open(c"/proc/self/statm", libc::O_RDONLY) else { return 0 };
    let len = file.read(&mut text);
    file.close();
    // OS pages: all of the program's, then those in memory.
    let fields = core::str::from_utf8(text.get(..len).unwrap_or_default()).unwrap_or_default();
    let pages = fields.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok());
    // SAFETY: no preconditions.
    let page_bytes = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(0);
    pages.unwrap_or(0).saturating_mul(page_bytes)
}

/// A number that no attacker can predict. It is weaker (the loader's random number of this process, with an address) if
/// the kernel has not gathered any randomness yet, or refuses.
#[cfg(feature = "hardened")]
pub(crate) fn random_number() -> u64 {
    let _errno = KeepErrno::new();
    let mut number = [0_u8; 8];
    // SAFETY: writable, of that length. By the system call's number: C libraries before glibc 2.25 have no function for
    // it.
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

pub(crate) fn abort() -> ! {
    // SAFETY: no preconditions.
    unsafe { libc::abort() }
}
