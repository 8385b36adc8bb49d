//! What runs inside the allocator's calls while tracing. It sees each block before any other thread can have it.
//!
//! # Protocol
//! - *start*: poisons every cache, so that every call of every thread takes the slow path, and makes the seam
//!   (`observe`) call the tracer. Only then does it store the session's number in `SESSION`. A block is recorded only
//!   by a call that has read that number, and freed after that call. So the thread that frees it finds its cache
//!   poisoned and the tracer wanted: no recorded block is ever freed unseen.
//! - *stop*: clears `SESSION`, undoes both, then empties the tables. Calls still under way insert nothing any more,
//!   because every insertion names its session and the tables know theirs.
//! - A block is recorded after its allocation and before the program gets it; it is forgotten before it is free. In
//!   between nobody else can have its address, so one address is never two blocks.
//! - The calls are made outside of all locks of the heap.
//!
//! # Re-entrancy
//! What the tracer itself allocates, at a snapshot or while it captures a stack, is recorded as the tracer's, without a
//! stack. So the tracer does not call itself, and `overhead` counts all that it allocates.

use core::sync::atomic::Ordering;

use super::blocks::{self, Block};
use super::capture;
use super::peaks;
use super::session;
use super::stacks::{self, StackId};
use super::state::{Busy, INTERVAL_BYTES, SESSION};
use super::thread;
use super::timeline;
use crate::observe::{Owner, Request, Tracer};
use crate::os;

/// Whether blocks are being traced.
fn is_on() -> bool {
    // Relaxed: a block that was recorded is freed after the call that recorded it, which read the session's number;
    // so its free reads that number, too, or a later one.
    SESSION.load(Ordering::Relaxed) != 0
}

/// The functions that the seam calls.
pub(in crate::trace) static TRACER: Tracer = Tracer { allocated, freed, moved };

fn allocated(block: *mut u8, request: Request, marker: *const u8) -> Owner {
    // Acquire: pairs with the Release in `start`; the poison and the wish that `start` set happen before this block is
    // handed out.
    let session = SESSION.load(Ordering::Acquire);
    if session == 0 {
        return Owner::Program;
    }
    record(session, block, request.bytes(), marker)
}

fn freed(block: *mut u8) -> Owner {
    let known = if is_on() { forget(block) } else { None };
    known.map_or(Owner::Program, |known| owner_of(known.stack()))
}

#[cold]
#[inline(never)]
fn record(session: u32, block: *mut u8, bytes: usize, marker: *const u8) -> Owner {
    let Some(stack) = thread::with(|thread| {
        if thread.busy.get() {
            return Some(StackId::TRACER);
        }
        // Relaxed: written before the session's number, which `allocated` has read with Acquire.
        let interval = INTERVAL_BYTES.load(Ordering::Relaxed);
        if interval != 0 && !thread.sampler.samples(bytes as u64, interval, session, os::thread_token() as u64) {
            return None;
        }
        let _busy = Busy::enter_in_allocation();
        Some(capture::with_frames(marker, |frames| stacks::intern(session, frames)))
    }) else {
        return Owner::Program;
    };
    blocks::insert(session, block.addr(), Block::new(bytes, stack));
    if stack != StackId::TRACER && peaks::is_near() {
        at_peak();
    }
    owner_of(stack)
}

#[cold]
#[inline(never)]
fn at_peak() {
    if peaks::is_due() {
        session::keep_peak();
    }
    if peaks::sample_is_due() {
        timeline::sample_peak();
    }
}

fn owner_of(stack: StackId) -> Owner {
    if stack == StackId::TRACER { Owner::Tracer } else { Owner::Program }
}

#[cold]
#[inline(never)]
fn forget(block: *mut u8) -> Option<Block> {
    // Relaxed: written before the session's number; see `is_on`.
    blocks::remove(block.addr(), INTERVAL_BYTES.load(Ordering::Relaxed) != 0)
}

/// Calls `realloc`, by which the large allocator moves a block, or fails and leaves it as it was.
fn moved(block: *mut u8, realloc: &mut dyn FnMut() -> *mut u8) -> (*mut u8, Owner) {
    // Relaxed: as in `is_on`.
    let session = SESSION.load(Ordering::Relaxed);
    // Before the call: during it, another thread may get the old block's address.
    let known = if session == 0 { None } else { forget(block) };
    let new = realloc();
    if let (Some(known), true) = (known, new.is_null()) {
        blocks::insert(session, block.addr(), known);
    }
    (new, known.map_or(Owner::Program, |known| owner_of(known.stack())))
}
