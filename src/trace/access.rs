//! The tracer's interface for the layer above it, the heap's graph.

use std::sync::Arc;

use super::names::symbols::{self, Symbols};
pub(crate) use super::names::traceback::{Frame, Traceback};
use super::read::filter::{self, Filter};
use super::read::snapshot::named;
pub(crate) use super::read::text::Bytes;
pub(crate) use super::record::memory::Mapped;
use super::record::session;
use super::record::stacks::{self, StackId};
pub(crate) use super::record::state::Busy;
use super::record::{blocks, capture, walk};

/// The stack of blocks that the tracer itself allocated.
pub(crate) const OWN: u32 = StackId::TRACER.number();

/// The number of the session that runs, and whether it traces every block.
pub(crate) fn session() -> Option<(u32, bool)> {
    session::current().map(|(number, config)| (number, config.interval.is_none()))
}

/// Calls `block` with each traced block (address, bytes, stack), and `array` with each array of the tracer's own
/// (address, bytes).
///
/// # Safety
/// The calling thread holds all locks of the crate, or is a copy of the thread that holds them.
pub(crate) unsafe fn each_held(mut block: impl FnMut(usize, usize, u32), mut array: impl FnMut(usize, usize)) {
    // SAFETY: the caller's promise.
    unsafe {
        blocks::each_held(|address, found| block(address, found.bytes() as usize, found.stack().number()), &mut array);
        stacks::each_held_array(array);
    }
}

/// Walks up the stack of a stopped thread, while all locks are held. Calls `note` for each function on it, with two
/// words: the return address and its module in one, and the stack pointer at which the function's frame begins. From
/// there on, the stack belongs to that function and its callers.
pub(crate) fn walk_other(pc: usize, sp: usize, bp: usize, note: impl FnMut(usize, usize) -> bool) {
    walk::walk_other(pc, sp, bp, note);
}

/// The program counter, the stack pointer and the frame pointer of the function that this is inlined into.
#[inline(always)]
pub(crate) fn here() -> (usize, usize, usize) {
    capture::here()
}

/// Runs `body`, which walks the loader's list of modules.
pub(crate) fn with_loader<R>(body: impl FnOnce() -> R) -> R {
    symbols::with_loader(body)
}

/// The tracebacks of a session's stacks; all are `None` if the session has ended. `progress` is told how many are done,
/// and of how many.
pub(crate) fn tracebacks(
    number: u32,
    stacks: &[u32],
    busy: &Busy,
    progress: &mut dyn FnMut(usize, usize),
) -> Vec<Option<Traceback>> {
    let ids: Vec<StackId> = stacks.iter().map(|&stack| StackId::from_number(stack)).collect();
    let Some((config, addresses)) = session::stacks_of(number, &ids, busy) else { return vec![None; stacks.len()] };
    let symbols = Symbols::new();
    let named = addresses.iter().enumerate().map(|(done, addresses)| {
        progress(done, stacks.len());
        Some(named(&symbols, &config, addresses))
    });
    named.collect()
}

/// The functions that each word of a walk stands for, inlined ones first.
pub(crate) fn functions(words: &[usize], _busy: &Busy) -> Vec<Arc<[Frame]>> {
    let symbols = Symbols::new();
    words.iter().map(|&word| symbols.look_up(word)).collect()
}

/// Frees the debug information that was read to find names.
pub(crate) fn release_debug_information() {
    symbols::release_debug_information();
}

/// Whether a traceback passes all filters.
pub(crate) fn passes(filters: &[Filter], traceback: &Traceback) -> bool {
    filter::passes(filters, traceback)
}

/// The traceback of a block about which nothing is known.
pub(crate) fn unknown() -> Traceback {
    Traceback::new(Vec::new())
}

/// Whether a block with this traceback belongs to an `Rc` or `Arc`.
pub(crate) fn counts_references(traceback: &Traceback) -> bool {
    let own = traceback.frames().iter().take_while(|frame| frame.is_library());
    own.into_iter().any(|frame| ["alloc::rc::", "alloc::sync::"].iter().any(|name| frame.function().contains(name)))
}

/// Whether any frame of a traceback belongs to the crate.
pub(crate) fn is_through(traceback: &Traceback, crate_name: &str) -> bool {
    traceback.frames().iter().any(|frame| frame.crate_name() == crate_name)
}
