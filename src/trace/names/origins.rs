//! Where blocks of the debug hooks were allocated and freed: their dump before an abort shows it while the tracer is
//! on.
//!
//! A stack is kept as any other, and its number given to the hooks. Nothing here allocates when it prints: a frame has
//! its name if a snapshot looked it up before; else the file and the place in it, which `addr2line -e file place`
//! names.

use core::sync::atomic::Ordering;

use super::symbols;
use crate::base::text::Text;
use crate::debug::{Origins, install_origins, remove_origins};
use crate::trace::record::capture::{self, ALLOCATOR_FRAMES, FRAMES_MAX};
use crate::trace::record::loaded;
use crate::trace::record::stacks::{self, StackId};
use crate::trace::record::state::{Busy, SESSION};
use crate::trace::record::thread;

static ORIGINS: Origins = Origins::new(capture, print);

/// Has the debug hooks ask here, unless the program gave them another source.
pub(in crate::trace) fn install() {
    install_origins(&ORIGINS);
}

pub(in crate::trace) fn remove() {
    remove_origins(&ORIGINS);
}

/// The bits of a number above the stack's: which session it is of, not 0.
fn tag(session: u32) -> u32 {
    session % 255 + 1
}

/// A number for the calling stack; 0 when not tracing.
fn capture() -> u32 {
    // Acquire: as in `hook::allocated`.
    let session = SESSION.load(Ordering::Acquire);
    if session == 0 || thread::with(|thread| thread.busy.get()) {
        return 0;
    }
    let marker = 0;
    let _busy = Busy::enter_in_allocation();
    let stack = capture::with_frames(&raw const marker, |frames| stacks::intern(session, frames));
    if stack == StackId::UNKNOWN { 0 } else { tag(session) << StackId::BITS | stack.number() }
}

fn print(number: u32, write: &mut dyn FnMut(&str)) {
    // Relaxed: a session that began meanwhile has no such stack, or another.
    if number >> StackId::BITS != tag(SESSION.load(Ordering::Relaxed)) {
        return;
    }
    let mut frames = [0; FRAMES_MAX + ALLOCATOR_FRAMES];
    let len = stacks::copy(StackId::from_number(number), &mut frames);
    for &word in &frames[..len] {
        if !symbols::print_known(word, write) {
            print_place(word, write);
        }
    }
}

/// A line with the file of an address's module, and the address's place there.
fn print_place(word: usize, write: &mut dyn FnMut(&str)) {
    let mut number = Text::<24>::new();
    let mut path = [0; 256];
    let module = loaded::number_of(word);
    let len = loaded::path(module, &mut path);
    write("  File \"");
    write(core::str::from_utf8(&path[..len]).ok().filter(|path| !path.is_empty()).unwrap_or("?"));
    let base = loaded::particulars(module).map_or(0, |particulars| particulars.base);
    let place = loaded::address_of(word) - 1 - base;
    number.push_hex(place);
    write("\", place 0x");
    write(core::str::from_utf8(number.bytes()).unwrap_or("?"));
    write("\n");
}
