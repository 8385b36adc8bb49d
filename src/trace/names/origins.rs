//! Where the debug hooks' blocks were allocated and freed. While the tracer is on, the hooks' dump before an abort
//! shows both.
//!
//! A stack is kept as any other, and the hooks keep its number. Printing allocates nothing: a frame that a snapshot
//! looked up before is printed by name, any other as a file and a place in it, which `addr2line -e file place` names.

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

/// Makes this the debug hooks' source, unless the program gave them another one.
pub(in crate::trace) fn install() {
    install_origins(&ORIGINS);
}

pub(in crate::trace) fn remove() {
    remove_origins(&ORIGINS);
}

/// The bits above the stack's in a number: they stand for the session, and are never 0.
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
    // Relaxed: no ordering would help; in a session that begins meanwhile, the number stands for no stack or another.
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

/// Writes a line with the file of an address's module, and the address's place in that file.
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
