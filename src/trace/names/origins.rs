//! Where blocks of the debug hooks were allocated and freed: their dump before an abort shows it while the tracer is
//! on.
//!
//! A stack is kept as any other, and its number given to the hooks. Nothing here allocates when it prints: a frame has
//! its name if a snapshot looked it up before; else the file and the place in it, which `addr2line -e file place`
//! names.

use core::sync::atomic::Ordering;

use super::modules;
use super::symbols;
use crate::base::text::Text;
use crate::debug::{Origins, install_origins, remove_origins};
use crate::trace::record::capture::{self, ALLOCATOR_FRAMES, FRAMES_MAX};
use crate::trace::record::stacks::{self, StackId};
use crate::trace::record::state::{Busy, FRAMES, SESSION};
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
    let stack = thread::with(|thread| {
        let mut buffer = capture::buffer();
        // Relaxed: written before the session's number.
        let frames = FRAMES.load(Ordering::Relaxed) as usize;
        stacks::intern(session, capture::capture(&mut buffer, frames, &raw const marker, &thread.stack))
    });
    if stack == StackId::UNKNOWN { 0 } else { tag(session) << StackId::BITS | stack.number() }
}

fn print(number: u32, write: &mut dyn FnMut(&str)) {
    // Relaxed: a session that began meanwhile has no such stack, or another.
    if number >> StackId::BITS != tag(SESSION.load(Ordering::Relaxed)) {
        return;
    }
    let mut frames = [0; FRAMES_MAX + ALLOCATOR_FRAMES];
    let len = stacks::copy(StackId::from_number(number), &mut frames);
    for &address in frames[..len].iter().filter(|&&address| address != 0) {
        if !symbols::print_known(address, write) {
            print_place(address - 1, write);
        }
    }
}

/// A line with an address's file and its place there.
fn print_place(address: usize, write: &mut dyn FnMut(&str)) {
    let mut number = Text::<24>::new();
    write("  File \"");
    let place = match modules::file_of(address) {
        Some((file, start)) => {
            write(file.to_str().unwrap_or("?"));
            address - start
        }
        None => {
            write("?");
            address
        }
    };
    number.push_hex(place);
    write("\", place 0x");
    write(core::str::from_utf8(number.bytes()).unwrap_or("?"));
    write("\n");
}
