//! Keeps stderr, and the files that variables name, from the program's start, so that they can be written at its end.
//!
//! Meanwhile the program may close every descriptor that it does not know, and open files of its own under the same
//! numbers. It may also change its root, its user and its environment. So the descriptor is kept with the identity of
//! the file behind it, and the variables' values are kept as copies. Before each write the identity is compared. If it
//! differs, nothing is written through that descriptor; the file is opened again if it still has its name.

use core::ffi::{CStr, c_int};
use core::fmt::{self, Write};
use std::sync::OnceLock;

use pymalloc_core::raw::{Descriptor, Identity};

/// The lowest number of a kept descriptor. It is above the numbers that shells and programs' tests look at, which end
/// at 255, and below the usual limit of 1024. Under a lower limit no descriptor is kept.
const NUMBER_MIN: c_int = 700;

/// A descriptor of the library's own, and the file behind it.
struct Kept {
    descriptor: Option<Descriptor>,
    identity: Identity,
}

impl Kept {
    /// Keeps a copy of an open descriptor; `None` if it is closed.
    fn copy_of(descriptor: Descriptor) -> Option<Self> {
        let identity = descriptor.identity_and_birth()?;
        // SAFETY: duplicates a descriptor; not a cancellation point.
        let copy = unsafe { libc::fcntl(descriptor.number(), libc::F_DUPFD_CLOEXEC, NUMBER_MIN) };
        Some(Self { descriptor: (copy >= 0).then(|| Descriptor::of_number(copy)), identity })
    }

    fn is(&self, descriptor: Descriptor) -> bool {
        descriptor.identity_and_birth() == Some(self.identity)
    }

    /// The descriptor, if the file is still behind it.
    fn current(&self) -> Option<Descriptor> {
        self.descriptor.filter(|&descriptor| self.is(descriptor))
    }
}

static STDERR: OnceLock<Option<Kept>> = OnceLock::new();

/// Keeps stderr for the program's end; programs may close it before.
pub(crate) fn keep_stderr() {
    STDERR.get_or_init(|| Kept::copy_of(Descriptor::of_number(libc::STDERR_FILENO)));
}

/// The stderr that the program was started with, if it is still open.
pub(crate) fn stderr() -> Option<Descriptor> {
    let kept = STDERR.get()?.as_ref()?;
    kept.current().or_else(|| Some(Descriptor::of_number(libc::STDERR_FILENO)).filter(|&own| kept.is(own)))
}

/// A path, or a part of one; at most as long as the system allows.
#[derive(Clone, Copy)]
struct Path {
    bytes: [u8; libc::PATH_MAX as usize],
    used: usize,
}

impl Path {
    const fn new() -> Self {
        Self { bytes: [0; libc::PATH_MAX as usize], used: 0 }
    }

    /// Adds text; `None` if the path gets too long.
    fn push(&mut self, text: &[u8]) -> Option<()> {
        let end = self.used + text.len();
        // The last byte stays zero.
        self.bytes.get_mut(self.used..end).filter(|_| end < libc::PATH_MAX as usize)?.copy_from_slice(text);
        self.used = end;
        Some(())
    }

    fn text(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or_default()
    }
}

impl Write for Path {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push(text.as_bytes()).ok_or(fmt::Error)
    }
}

/// A file that a variable names: one for all processes, or, with `%p` in its name, one for each.
pub(crate) struct File {
    name: Path,
    of_each_process: bool,
    flags: c_int,
    /// The descriptor that was opened at the start, or the error.
    kept: Result<Kept, c_int>,
    /// The [`forks`](crate::start::forks) of the process that opened it.
    forks: u32,
}

/// Why nothing was saved.
pub(crate) enum Unsaved {
    /// The file can't be opened, or written.
    Refused(c_int),
    /// The program has closed the descriptor that was kept, and another file has the name.
    Replaced,
}

impl File {
    /// Makes the file if need be, and keeps it. With `numbered`, `%p` in the name stands for the process's number.
    pub(crate) fn keep(name: &CStr, flags: c_int, numbered: bool) -> Self {
        let of_each_process = numbered && name.to_bytes().windows(2).any(|pair| pair == b"%p");
        let mut file = Self {
            name: Path::new(),
            of_each_process,
            flags: flags | libc::O_WRONLY,
            kept: Err(libc::ENAMETOOLONG),
            forks: crate::start::forks(),
        };
        if file.name.push(name.to_bytes()).is_some() {
            file.kept = file.open(libc::O_CREAT).and_then(|descriptor| {
                let kept = Kept::copy_of(descriptor);
                descriptor.close();
                kept.ok_or(libc::EBADF)
            });
        }
        file
    }

    fn open(&self, further: c_int) -> Result<Descriptor, c_int> {
        Descriptor::open(self.path().ok_or(libc::ENAMETOOLONG)?.text(), self.flags | further)
    }

    /// The name of this process's file.
    fn path(&self) -> Option<Path> {
        if !self.of_each_process {
            return Some(self.name);
        }
        let (name, mut path) = (self.name.text().to_bytes(), Path::new());
        let mut rest = name;
        while let Some(place) = rest.windows(2).position(|pair| pair == b"%p") {
            path.push(rest.get(..place)?)?;
            // SAFETY: no preconditions.
            write!(path, "{}", unsafe { libc::getpid() }).ok()?;
            rest = rest.get(place + 2..)?;
        }
        path.push(rest)?;
        Some(path)
    }

    /// Calls `save` to write to the file.
    ///
    /// # Errors
    /// Nothing was written, or not all of it.
    pub(crate) fn save(&self, save: impl FnOnce(Descriptor) -> Result<(), c_int>) -> Result<(), Unsaved> {
        // If each process has its own file, a forked child's is not its parent's.
        let kept = self.kept.as_ref().ok().filter(|_| !self.of_each_process || self.forks == crate::start::forks());
        if let Some(descriptor) = kept.and_then(Kept::current) {
            return save(descriptor).map_err(Unsaved::Refused);
        }
        let descriptor = self.open(if kept.is_some() { 0 } else { libc::O_CREAT }).map_err(Unsaved::Refused)?;
        let saved = match kept {
            Some(kept) if !kept.is(descriptor) => Err(Unsaved::Replaced),
            _ => save(descriptor).map_err(Unsaved::Refused),
        };
        descriptor.close();
        saved
    }

    /// Reports on stderr that the file was not saved, and why.
    pub(crate) fn complain(&self, unsaved: &Unsaved) {
        let mut text = Text::new(stderr);
        text.push(b"pymalloc: ");
        text.push(self.path().as_ref().map_or(c"", Path::text).to_bytes());
        text.push(b": not saved: ");
        match unsaved {
            Unsaved::Refused(error) => text.push_error(*error),
            Unsaved::Replaced => text.push(b"the program closed the file, and another one has its name"),
        }
        text.push(b"\n");
        text.flush();
    }
}

/// Writes text to a descriptor through a buffer on the stack, so that a line is one `write`.
pub(crate) struct Text<D: Fn() -> Option<Descriptor>> {
    /// Asked before each write.
    descriptor: D,
    bytes: [u8; 512],
    used: usize,
    failed: Option<c_int>,
}

impl<D: Fn() -> Option<Descriptor>> Text<D> {
    pub(crate) fn new(descriptor: D) -> Self {
        Self { descriptor, bytes: [0; 512], used: 0, failed: None }
    }

    pub(crate) fn push(&mut self, text: &[u8]) {
        for &byte in text {
            if self.used == self.bytes.len() {
                self.flush();
            }
            if let Some(place) = self.bytes.get_mut(self.used) {
                *place = byte;
                self.used += 1;
            }
        }
    }

    /// Adds the system's text for an error.
    fn push_error(&mut self, error: c_int) {
        let mut name = [0; 128];
        // SAFETY: a writable buffer of that length.
        unsafe { libc::strerror_r(error, name.as_mut_ptr().cast(), name.len()) };
        self.push(CStr::from_bytes_until_nul(&name).unwrap_or_default().to_bytes());
    }

    pub(crate) fn flush(&mut self) {
        let text = self.bytes.get(..self.used).unwrap_or_default();
        let written = (self.descriptor)().ok_or(libc::EBADF).and_then(|descriptor| descriptor.write_all(text));
        self.failed = self.failed.or(written.err());
        self.used = 0;
    }

    /// Writes the rest.
    ///
    /// # Errors
    /// The first error of any write.
    pub(crate) fn finish(mut self) -> Result<(), c_int> {
        self.flush();
        self.failed.map_or(Ok(()), Err)
    }
}

impl<D: Fn() -> Option<Descriptor>> Write for Text<D> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push(text.as_bytes());
        Ok(())
    }
}
