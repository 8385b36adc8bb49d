//! `PYMALLOC_REPORT`: reports what the heap held when the program exited.
//!
//! With `1`, the whole table is written to stderr. With a path (which begins with `/`), one line per process is
//! appended to that file: this leaves the programs' output alone, and shows which processes ran on the library. A
//! process that ends by `_exit`, `exec` or a signal reports nothing. The file is opened at the start (`kept`).

use core::ffi::{CStr, c_char, c_int};
use core::fmt::Write;
use std::sync::OnceLock;

use pymalloc_core::raw::{self, Descriptor, NoCancellation};

use crate::kept::{self, File, Text};
use crate::start::variable;

unsafe extern "C" {
    static program_invocation_short_name: *const c_char;
}

/// What is asked for, if anything.
static WANTED: OnceLock<Wanted> = OnceLock::new();
/// Apart from it, as in `graph`.
static FILE: OnceLock<File> = OnceLock::new();

struct Wanted {
    /// The file for the report; `None` for stderr.
    file: Option<&'static File>,
    /// The program's name at its start. A copy, because servers write their state over their arguments, where the C
    /// library's name of the program lies.
    name: [u8; NAME_BYTES],
}

/// Longer names are cut.
const NAME_BYTES: usize = 64;

pub(crate) fn prepare() {
    let file = match variable(c"PYMALLOC_REPORT") {
        Some(value) if value == c"1" => None,
        Some(path) if path.to_bytes().starts_with(b"/") => {
            Some(FILE.get_or_init(|| File::keep(path, libc::O_APPEND, false)))
        }
        _ => return,
    };
    // Even with a file, for complaints.
    kept::keep_stderr();
    let mut name = [0; NAME_BYTES];
    // SAFETY: glibc's own C string, set before the program starts.
    let given = unsafe { CStr::from_ptr(program_invocation_short_name) }.to_bytes();
    name.iter_mut().zip(given).for_each(|(place, &byte)| *place = byte);
    WANTED.get_or_init(|| Wanted { file, name });
}

extern "C" fn at_exit() {
    let Some(Wanted { file, name }) = WANTED.get() else { return };
    let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
    let _no_cancellation = NoCancellation::new();
    match file {
        // If it fails, there is no place left to report it.
        None => drop(report(name, kept::stderr, true)),
        Some(file) => {
            if let Err(unsaved) = file.save(|descriptor| report(name, || Some(descriptor), false)) {
                file.complain(&unsaved);
            }
        }
    }
}

#[used]
#[unsafe(link_section = ".fini_array")]
static AT_EXIT: extern "C" fn() = at_exit;

fn report(name: &[u8], out: impl Fn() -> Option<Descriptor>, whole: bool) -> Result<(), c_int> {
    let stats = pymalloc_core::stats();
    let pools: usize = stats.classes.iter().map(|class| class.pools).sum();
    // SAFETY: no preconditions.
    let process = unsafe { libc::getpid() };
    let mut out = Text::new(out);
    // `finish` reports all failures.
    let _ = write!(out, "pymalloc: process {process} (");
    out.push(name);
    let (blocks, arenas, ever) = (stats.blocks_live(), stats.arenas_mapped, stats.arenas_ever);
    let _ = write!(out, ") exits with {blocks} blocks in {pools} pools, {arenas} arenas mapped now, {ever} ever, ");
    let _ = writeln!(out, "after at least {} allocations", raw::allocations_min());
    if whole {
        let _ = write!(out, "{stats}");
    }
    out.finish()
}
