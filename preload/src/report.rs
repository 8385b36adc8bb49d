//! `PYMALLOC_REPORT`: what the heap held when the program exited.
//!
//! `1` writes the whole table to stderr. A path (it begins with `/`) has one line a process appended to that file: that
//! disturbs nobody's output, and shows which processes ran on the library. A process that ends by `_exit`, `exec`
//! or a signal reports nothing.

use core::ffi::{CStr, c_char, c_int};
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicI32, Ordering};

use pymalloc_core::raw;

use crate::start::variable;

unsafe extern "C" {
    static program_invocation_short_name: *const c_char;
}

/// A copy of stderr, which programs may close before they exit. -1: none.
static STDERR: AtomicI32 = AtomicI32::new(-1);
/// The least number that the copy may have: out of the way of programs that count on theirs.
const STDERR_COPY_MIN: c_int = 200;

pub(crate) fn prepare() {
    if variable(c"PYMALLOC_REPORT") == Some(c"1") {
        // SAFETY: duplicates a descriptor, if it is open.
        let copy = unsafe { libc::fcntl(libc::STDERR_FILENO, libc::F_DUPFD_CLOEXEC, STDERR_COPY_MIN) };
        // Relaxed: a number, read at exit.
        STDERR.store(copy, Ordering::Relaxed);
    }
}

extern "C" fn at_exit() {
    match variable(c"PYMALLOC_REPORT") {
        Some(value) if value == c"1" => report(&mut Descriptor::new(STDERR.load(Ordering::Relaxed)), true),
        Some(path) if path.to_bytes().starts_with(b"/") => {
            let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND | libc::O_CLOEXEC;
            // SAFETY: a C string; the mode is passed as `open` reads it.
            let file = unsafe { libc::open(path.as_ptr(), flags, 0o644 as libc::c_uint) };
            if file >= 0 {
                report(&mut Descriptor::new(file), false);
                // SAFETY: opened above.
                unsafe { libc::close(file) };
            }
        }
        _ => {}
    }
}

#[used]
#[unsafe(link_section = ".fini_array")]
static AT_EXIT: extern "C" fn() = at_exit;

fn report(out: &mut Descriptor, whole: bool) {
    let stats = pymalloc_core::stats();
    let pools: usize = stats.classes.iter().map(|class| class.pools).sum();
    // SAFETY: glibc's own C string, set before the program starts.
    let name = unsafe { CStr::from_ptr(program_invocation_short_name) };
    // SAFETY: no preconditions.
    let process = unsafe { libc::getpid() };
    // Nobody is left to tell if the report can't be written.
    let _ = write!(out, "pymalloc: process {process} (");
    out.push(name.to_bytes());
    let (blocks, arenas, ever) = (stats.blocks_live(), stats.arenas_mapped, stats.arenas_ever);
    let _ = write!(out, ") exits with {blocks} blocks in {pools} pools, {arenas} arenas mapped now, {ever} ever, ");
    let _ = writeln!(out, "after at least {} allocations", raw::allocations_min());
    if whole {
        let _ = write!(out, "{stats}");
    }
    out.flush();
}

/// Text on its way to a descriptor, through a buffer on the stack: so a line is one `write`.
struct Descriptor {
    descriptor: c_int,
    bytes: [u8; 512],
    used: usize,
}

impl Descriptor {
    fn new(descriptor: c_int) -> Self {
        Self { descriptor, bytes: [0; 512], used: 0 }
    }

    fn push(&mut self, text: &[u8]) {
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

    fn flush(&mut self) {
        let mut rest = self.bytes.get(..self.used).unwrap_or_default();
        while !rest.is_empty() {
            // SAFETY: a readable buffer of that length.
            let written = unsafe { libc::write(self.descriptor, rest.as_ptr().cast(), rest.len()) };
            match usize::try_from(written) {
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(_) => break,
            }
        }
        self.used = 0;
    }
}

impl Write for Descriptor {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push(text.as_bytes());
        Ok(())
    }
}
