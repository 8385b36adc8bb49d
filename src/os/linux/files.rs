//! Files, for code that runs inside the allocator's calls or at a process's end.
//!
//! System calls are made by their numbers. The C library's `open`, `read`, `write` and `close` are cancellation points:
//! there, a thread that another one cancelled would end in the middle of the allocator's work. `errno` stays as it was.

use core::ffi::{CStr, c_int};
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use super::KeepErrno;

/// A file's descriptor, by its number. Dropping it closes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor(c_int);

/// The identity of the file behind a descriptor: two files are the same if their identities are equal. A new file may
/// get the number of one that is gone. Then they differ by their times of birth, where these are known.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    device: u64,
    inode: u64,
    /// The time of birth in seconds and nanoseconds, if it was asked for and the file system knows it.
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

    /// Opens a file; the descriptor is closed at `exec`. A file that is created has mode `0644`.
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

    /// A copy of the descriptor with a number of at least `least`. It is closed at `exec`.
    ///
    /// # Errors
    /// The system's number of the error.
    pub fn copy_from(self, least: c_int) -> Result<Self, c_int> {
        let _errno = KeepErrno::new();
        // SAFETY: duplicates a descriptor; not a cancellation point.
        let copy = unsafe { libc::fcntl(self.0, libc::F_DUPFD_CLOEXEC, least) };
        if copy < 0 { Err(errno()) } else { Ok(Self(copy)) }
    }

    /// Whether a regular file is behind it, not a pipe, a device or a folder.
    pub fn is_file(self) -> bool {
        self.status().is_some_and(|status| status.st_mode & libc::S_IFMT == libc::S_IFREG)
    }

    /// Closes the descriptor.
    pub fn close(self) {
        let _errno = KeepErrno::new();
        // SAFETY: a number; the caller gives it up.
        unsafe { libc::syscall(libc::SYS_close, self.0) };
    }

    /// Reads the bytes that are there into `buffer`, and returns their number: 0 at the end, and if it fails.
    pub fn read(self, buffer: &mut [u8]) -> usize {
        let _errno = KeepErrno::new();
        // SAFETY: a writable buffer of that length.
        let read = unsafe { libc::syscall(libc::SYS_read, self.0, buffer.as_mut_ptr(), buffer.len()) };
        usize::try_from(read).unwrap_or(0)
    }

    /// Writes all of `bytes`, whatever signals come. A write that fails sends no signal.
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

    /// Replaces the file's contents by `bytes`. A pipe or a device just gets the bytes.
    ///
    /// # Errors
    /// The system's number of the error. Some of the bytes may have been written.
    pub fn rewrite(self, bytes: &[u8]) -> Result<(), c_int> {
        let _errno = KeepErrno::new();
        // SAFETY: numbers only. If it is no regular file, both calls fail.
        unsafe {
            libc::syscall(libc::SYS_lseek, self.0, 0, libc::SEEK_SET);
            libc::syscall(libc::SYS_ftruncate, self.0, 0);
        }
        self.write_all(bytes)
    }

    /// The identity of the file behind it; `None` if the descriptor is closed.
    pub fn identity(self) -> Option<Identity> {
        self.status().map(|status| Identity { device: status.st_dev, inode: status.st_ino, born: None })
    }

    /// The [`identity`](Self::identity) with the file's time of birth.
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

    /// Whether a write goes to a reader or to a file's end, and so overwrites nothing.
    fn appends(self) -> bool {
        let _errno = KeepErrno::new();
        let kind = self.status().map_or(0, |status| status.st_mode & libc::S_IFMT);
        // SAFETY: reads the descriptor's flags.
        let flags = unsafe { libc::fcntl(self.0, libc::F_GETFL) };
        kind == libc::S_IFIFO || kind == libc::S_IFCHR || (flags >= 0 && flags & libc::O_APPEND != 0)
    }
}

/// Opens a file to write at its end. With `anew`, it is created if it does not exist, and emptied.
///
/// # Errors
/// The system's number of the error.
#[cfg(feature = "trace")]
pub(crate) fn open_to_write(path: &CStr, anew: bool) -> Result<Descriptor, c_int> {
    // Without waiting for the other end of a pipe.
    let flags = libc::O_WRONLY | libc::O_APPEND | libc::O_NONBLOCK;
    Descriptor::open(path, if anew { flags | libc::O_CREAT | libc::O_TRUNC } else { flags })
}

/// While this value lives, a failing write of the calling thread's only returns an error. Otherwise a write without a
/// reader would send `SIGPIPE`, and one beyond the limit on file sizes `SIGXFSZ`; either would end a program that
/// expects no write.
///
/// System calls are made by their numbers, with the kernel's sets of signals: each function of the C library that the
/// crate names costs every start of a program a look-up of 700 instructions.
struct NoWriteSignals {
    before: u64,
    /// The two signals, except those that were pending before.
    ours: u64,
}

impl NoWriteSignals {
    fn new() -> Self {
        const BOTH: u64 = 1 << (libc::SIGPIPE - 1) | 1 << (libc::SIGXFSZ - 1);
        let (mut before, mut pending) = (0_u64, 0_u64);
        // SAFETY: a set of our own, of the given length.
        unsafe { libc::syscall(libc::SYS_rt_sigpending, &raw mut pending, size_of::<u64>()) };
        let ours = BOTH & !pending;
        let (set, old) = (&raw const ours, &raw mut before);
        // SAFETY: as above.
        unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_BLOCK, set, old, size_of::<u64>()) };
        Self { before, ours }
    }
}

impl Drop for NoWriteSignals {
    fn drop(&mut self) {
        let at_once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let (nobody, ours) = (core::ptr::null_mut::<libc::siginfo_t>(), &raw const self.ours);
        let bytes = size_of::<u64>();
        // SAFETY: sets of our own and a time; there is no place for an answer.
        while unsafe { libc::syscall(libc::SYS_rt_sigtimedwait, ours, nobody, &raw const at_once, bytes) } > 0 {}
        let (before, nothing) = (&raw const self.before, core::ptr::null_mut::<u64>());
        // SAFETY: as above.
        unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, before, nothing, bytes) };
    }
}

const STDERR: Descriptor = Descriptor(libc::STDERR_FILENO);

/// The state of stderr when the program was loaded.
static NOTED: AtomicU8 = AtomicU8::new(NOT_YET);
static NOTED_DEVICE: AtomicU64 = AtomicU64::new(0);
static NOTED_INODE: AtomicU64 = AtomicU64::new(0);

/// The values of `NOTED`. While nothing is noted yet, no code of the program has run, so stderr is what it was given.
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

/// Whether descriptor 2 is still the stderr that the program was started with, not a file that it has opened since.
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

/// Writes a report to stderr. If the program has another file there than at its start, the report is left out.
pub(crate) fn report_stderr(bytes: &[u8]) {
    if is_the_first_stderr() {
        // If it fails, there is nobody to tell.
        let _ = STDERR.write_all(bytes);
    }
}

/// Writes the message before an abort to stderr. It also goes to a log, pipe or terminal that the program has put there
/// since its start, but never into a data file that got the number because stderr was closed.
pub(crate) fn write_stderr(bytes: &[u8]) {
    if is_the_first_stderr() || STDERR.appends() {
        // If it fails, there is nobody to tell.
        let _ = STDERR.write_all(bytes);
    }
}
