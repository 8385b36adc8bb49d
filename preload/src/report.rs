//! `PYMALLOC_REPORT`: what the heap held when the program exited.
//!
//! `1` writes the whole table to stderr. A path (it begins with `/`) has one line a process appended to that file: that
//! disturbs nobody's output, and shows which processes ran on the library. A process that ends by `_exit`, `exec`
//! or a signal reports nothing. The file is opened at the start (`kept`).

use core::ffi::{CStr, c_char, c_int};
use core::fmt::Write;
use std::sync::OnceLock;

use pymalloc_core::raw::{self, Descriptor, NoCancellation};

use crate::kept::{self, File, Text};
use crate::start::variable;

unsafe extern "C" {
    static program_invocation_short_name: *const c_char;
}

/// Where the report goes, if one is asked for: to a file, or else to stderr.
static WANTED: OnceLock<Option<File>> = OnceLock::new();

pub(crate) fn prepare() {
    let file = match variable(c"PYMALLOC_REPORT") {
        Some(value) if value == c"1" => None,
        Some(path) if path.to_bytes().starts_with(b"/") => Some(File::keep(path, libc::O_APPEND, false)),
        _ => return,
    };
    // Of a file, for complaints.
    kept::keep_stderr();
    WANTED.get_or_init(|| file);
}

extern "C" fn at_exit() {
    let Some(file) = WANTED.get() else { return };
    let _no_cancellation = NoCancellation::new();
    match file {
        // Nobody is left to tell if it fails.
        None => drop(report(kept::stderr, true)),
        Some(file) => {
            if let Err(unsaved) = file.save(|descriptor| report(|| Some(descriptor), false)) {
                file.complain(&unsaved);
            }
        }
    }
}

#[used]
#[unsafe(link_section = ".fini_array")]
static AT_EXIT: extern "C" fn() = at_exit;

fn report(out: impl Fn() -> Option<Descriptor>, whole: bool) -> Result<(), c_int> {
    let stats = pymalloc_core::stats();
    let pools: usize = stats.classes.iter().map(|class| class.pools).sum();
    // SAFETY: glibc's own C string, set before the program starts.
    let name = unsafe { CStr::from_ptr(program_invocation_short_name) };
    // SAFETY: no preconditions.
    let process = unsafe { libc::getpid() };
    let mut out = Text::new(out);
    // `finish` tells of all that fails.
    let _ = write!(out, "pymalloc: process {process} (");
    out.push(name.to_bytes());
    let (blocks, arenas, ever) = (stats.blocks_live(), stats.arenas_mapped, stats.arenas_ever);
    let _ = write!(out, ") exits with {blocks} blocks in {pools} pools, {arenas} arenas mapped now, {ever} ever, ");
    let _ = writeln!(out, "after at least {} allocations", raw::allocations_min());
    if whole {
        let _ = write!(out, "{stats}");
    }
    out.finish()
}
