//! Files, for what runs inside the allocator's calls or at a process's end.
//!
//! By the system calls' numbers: the C library's `open`, `read`, `write` and `close` are cancellation points, at which
//! a thread that another one cancelled ends, in the midst of what the allocator was doing. `errno` stays as it was.

use core::ffi::{CStr, c_int};
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use super::KeepErrno;

/// A file's descriptor, by its number. Dropping it closes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor(c_int);

/// The file behind a descriptor. Two are the same file if their identities are equal; one that is gone may have left
/// its number to another, which then was born later, where that is known.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    device: u64,
    inode: u64,
    /// In seconds and nanoseconds, if it was asked for and the file system knows.
    born: Option<(i64, u32)>,
}

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        let born_apart = self.born.is_some() && other.born.is_some() && self.born != other.born;
        self.device == other.device && self.inode == other.inode && !born_apart
    }
}

/// The error of a system call that returned -1.
fn errno() -> c_int {
    // SAFETY: libc's own thread-local.
    unsafe { *libc::__errno_location() }
}

impl Descriptor {
    /// The descriptor with this number, which the caller has.
    pub const fn of_number(number: c_int) -> Self {
        Self(number)
    }

    /// The descriptor's number.
    pub const fn number(self) -> c_int {
        self.0
    }

    /// Opens a file, closed at `exec`; if it is made, with rights `0644`.
    ///
    /// # Errors
    /// The system's number of the error.
    pub fn open(path: &CStr, flags: c_int) -> Result<Self, c_int> {
        let _errno = KeepErrno::new();
        // SAFETY: a C string and numbers.
        let number =
            unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags | libc::O_CLOEXEC, 0o644) };
        if number < 0 { Err(errno()) } else { Ok(Self(number as c_int)) }
    }

    /// Closes it.
    pub fn close(self) {
        let _errno = KeepErrno::new();
        // SAFETY: a number; the caller gives it up.
        unsafe { libc::syscall(libc::SYS_close, self.0) };
    }

    /// Reads what is there; 0 at the end, and if it fails.
    pub fn read(self, buffer: &mut [u8]) -> usize {
        let _errno = KeepErrno::new();
        // SAFETY: a writable buffer of that length.
        let read = unsafe { libc::syscall(libc::SYS_read, self.0, buffer.as_mut_ptr(), buffer.len()) };
        usize::try_from(read).unwrap_or(0)
    }

    /// Writes all of it, whatever signals come; a write that fails sends none.
    ///
    /// # Errors
    /// The system's number of the error.
    pub fn write_all(self, bytes: &[u8]) -> Result<(), c_int> {
        let _errno = KeepErrno::new();
        let _no_signals = NoWriteSignals::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            // SAFETY: a readable buffer of that length.
            let written = unsafe { libc::syscall(libc::SYS_write, self.0, rest.as_ptr(), rest.len()) };
            match usize::try_from(written) {
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(_) if errno() == libc::EINTR => {}
                Err(_) => return Err(errno()),
            }
        }
        Ok(())
    }

    /// Makes these bytes all that the file holds; a pipe or a device gets them as they are.
    ///
    /// # Errors
    /// The system's number of the error; some of it may be written then.
    pub fn rewrite(self, bytes: &[u8]) -> Result<(), c_int> {
        let _errno = KeepErrno::new();
        // SAFETY: numbers only. What is no file of bytes refuses both.
        unsafe {
            libc::syscall(libc::SYS_lseek, self.0, 0, libc::SEEK_SET);
            libc::syscall(libc::SYS_ftruncate, self.0, 0);
        }
        self.write_all(bytes)
    }

    /// The file behind it; `None` if it is closed.
    pub fn identity(self) -> Option<Identity> {
        self.status().map(|status| Identity { device: status.st_dev, inode: status.st_ino, born: None })
    }

    /// [`identity`](Self::identity), and when the file was born.
    pub fn identity_and_birth(self) -> Option<Identity> {
        self.identity().map(|identity| Identity { born: self.born(), ..identity })
    }

    fn born(self) -> Option<(i64, u32)> {
        let _errno = KeepErrno::new();
        // SAFETY: plain data, of which zero is a valid value.
        let mut status: libc::statx = unsafe { core::mem::zeroed() };
        let (path, flags, wanted) = (c"".as_ptr(), libc::AT_EMPTY_PATH, libc::STATX_BTIME);
        // SAFETY: an empty C string, which stands for the descriptor, and a place for the answer.
        let answer = unsafe { libc::syscall(libc::SYS_statx, self.0, path, flags, wanted, &raw mut status) };
        let born = status.stx_btime;
        (answer == 0 && status.stx_mask & wanted != 0).then_some((born.tv_sec, born.tv_nsec))
    }

    fn status(self) -> Option<libc::stat> {
        let _errno = KeepErrno::new();
        // SAFETY: plain data, of which zero is a valid value.
        let mut status: libc::stat = unsafe { core::mem::zeroed() };
        // SAFETY: a place for the answer. `fstat` is no cancellation point, neither in glibc nor in musl.
        (unsafe { libc::fstat(self.0, &raw mut status) } == 0).then_some(status)
    }

    /// Whether what is written goes to a reader or to a file's end, and overwrites nothing.
    fn appends(self) -> bool {
        let _errno = KeepErrno::new();
        let kind = self.status().map_or(0, |status| status.st_mode & libc::S_IFMT);
        // SAFETY: reads the descriptor's flags.
        let flags = unsafe { libc::fcntl(self.0, libc::F_GETFL) };
        kind == libc::S_IFIFO || kind == libc::S_IFCHR || (flags >= 0 && flags & libc::O_APPEND != 0)
    }
}

/// While it lives, a write of the calling thread's that fails is an error and no more: without a reader it would send
/// `SIGPIPE`, beyond the limit of files' sizes `SIGXFSZ`, and each would end a program that expects no write.
struct NoWriteSignals {
    before: libc::sigset_t,
    /// Those of them that were not pending before.
    ours: libc::sigset_t,
}

impl NoWriteSignals {
    fn new() -> Self {
        // SAFETY: plain data, of which zero is a valid value.
        let (mut before, mut ours): (libc::sigset_t, libc::sigset_t) = unsafe { core::mem::zeroed() };
        let mut pending = before;
        // SAFETY: sets of our own, and signals that exist.
        unsafe {
            libc::sigpending(&mut pending);
            libc::sigemptyset(&mut ours);
            for signal in [libc::SIGPIPE, libc::SIGXFSZ] {
                if libc::sigismember(&pending, signal) != 1 {
                    libc::sigaddset(&mut ours, signal);
                }
            }
            libc::pthread_sigmask(libc::SIG_BLOCK, &ours, &mut before);
        }
        Self { before, ours }
    }
}

impl Drop for NoWriteSignals {
    fn drop(&mut self) {
        /// Bytes of the kernel's set, with which a C library's begins.
        const SET_BYTES: usize = size_of::<u64>();
        let at_once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let nobody = core::ptr::null::<libc::siginfo_t>();
        // SAFETY: sets of our own and a time; nobody is told what came. By the system call's number: the C library's
        // function is a cancellation point.
        unsafe {
            while libc::syscall(libc::SYS_rt_sigtimedwait, &raw const self.ours, nobody, &raw const at_once, SET_BYTES)
                > 0
            {}
            libc::pthread_sigmask(libc::SIG_SETMASK, &self.before, core::ptr::null_mut());
        }
    }
}

const STDERR: Descriptor = Descriptor(libc::STDERR_FILENO);

/// What stderr was when the program was loaded.
static NOTED: AtomicU8 = AtomicU8::new(NOT_YET);
static NOTED_DEVICE: AtomicU64 = AtomicU64::new(0);
static NOTED_INODE: AtomicU64 = AtomicU64::new(0);

/// The values of `NOTED`. Before any code of the program ran, its stderr is what it was given.
const NOT_YET: u8 = 0;
const CLOSED: u8 = 1;
const OPEN: u8 = 2;

super::at_start!(note_stderr);

#[unsafe(link_section = ".text_pymalloc")]
extern "C" fn note_stderr() {
    let Some(identity) = STDERR.identity() else {
        // Relaxed (all here): written before there are threads.
        NOTED.store(CLOSED, Ordering::Relaxed);
        return;
    };
    NOTED_DEVICE.store(identity.device, Ordering::Relaxed);
    NOTED_INODE.store(identity.inode, Ordering::Relaxed);
    NOTED.store(OPEN, Ordering::Relaxed);
}

/// Whether descriptor 2 is what the program was started with, rather than a file that it has opened since.
fn is_the_first_stderr() -> bool {
    // Relaxed (all): written before there are threads.
    match NOTED.load(Ordering::Relaxed) {
        NOT_YET => true,
        CLOSED => false,
        _ => {
            STDERR.identity()
                == Some(Identity {
                    device: NOTED_DEVICE.load(Ordering::Relaxed),
                    inode: NOTED_INODE.load(Ordering::Relaxed),
                    born: None,
                })
        }
    }
}

/// Writes to stderr, unless the program has another file there than at its start: a report, which nobody misses.
pub(crate) fn report_stderr(bytes: &[u8]) {
    if is_the_first_stderr() {
        // Nobody is left to tell if it fails.
        let _ = STDERR.write_all(bytes);
    }
}

/// Writes to stderr what is said before an abort. Also to a log, pipe or terminal that the program has put there since
/// its start; but over no byte of a data file that got the number because stderr was closed.
pub(crate) fn write_stderr(bytes: &[u8]) {
    if is_the_first_stderr() || STDERR.appends() {
        // Nobody is left to tell if it fails.
        let _ = STDERR.write_all(bytes);
    }
}
