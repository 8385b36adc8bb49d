//! Starting, stopping and reading: one at a time.
//!
//! # Locks
//! `CONTROL`, then `SYMBOLS`, then `CODE` (`rules`), then those of the heap, then the shards' (`blocks`, `stacks`). A fork
//! takes all of them. The first three are held while the tracer allocates. No call inside the allocator asks for the first
//! two; it asks for `CODE` outside of all locks of the heap, and does not wait for it.

use core::sync::atomic::Ordering;
use std::collections::HashMap;

use super::blocks::{self, Block};
use super::capture::FRAMES_MAX;
use super::config::{Config, StartError};
use super::hook::{Busy, FRAMES, INTERVAL_BYTES, SESSION};
use super::stacks::{self, StackId};
use super::{memory, modules, rules, symbols};
use crate::cache::{GLOBAL, ThreadCache};
use crate::lock::Lock;
use crate::observe::{self, TRACE};
use crate::os;

struct Control {
    /// The last session's number.
    sessions: u32,
    config: Option<Config>,
}

static CONTROL: Lock<Control> = Lock::new(Control { sessions: 0, config: None });

pub(super) fn start(config: Config) -> Result<(), StartError> {
    config.check()?;
    if !os::SUPPORTED {
        return Err(StartError::Unsupported);
    }
    CONTROL.lock().with(|control| {
        if control.config.is_some() {
            return Err(StartError::AlreadyTracing);
        }
        control.sessions = control.sessions.wrapping_add(1).max(1);
        control.config = Some(config);
        let interval = config.interval_bytes();
        // Relaxed (both): published by the session's number.
        FRAMES.store(config.frames as u32, Ordering::Relaxed);
        INTERVAL_BYTES.store(interval, Ordering::Relaxed);
        rules::begin(modules::code());
        stacks::begin(control.sessions);
        blocks::begin(control.sessions, interval);
        ThreadCache::poison_all(&GLOBAL, true);
        observe::want(TRACE);
        // Release: pairs with the Acquire in `allocated`. The caches are poisoned, and the tracer is called for every block,
        // before a block is recorded.
        SESSION.store(control.sessions, Ordering::Release);
        Ok(())
    })
}

pub(super) fn stop() {
    CONTROL.lock().with(|control| {
        if control.config.take().is_none() {
            return;
        }
        symbols::clear();
        // Relaxed: who reads the old number is refused by the tables below.
        SESSION.store(0, Ordering::Relaxed);
        observe::unwant(TRACE);
        ThreadCache::poison_all(&GLOBAL, false);
        blocks::begin(0, 0);
        stacks::begin(0);
    });
}

pub(super) fn config() -> Option<Config> {
    CONTROL.lock().with(|control| control.config)
}

pub(super) fn clear() {
    CONTROL.lock().with(|control| {
        if control.config.is_some() {
            blocks::clear();
        }
    });
}

/// Bytes of memory that the tracer uses.
pub(super) fn overhead() -> u64 {
    // Relaxed: a reading.
    let tables = if SESSION.load(Ordering::Relaxed) == 0 { 0 } else { rules::TABLE_BYTES + blocks::FILTER_BYTES };
    (tables + memory::mapped_bytes()) as u64 + blocks::tracer_bytes()
}

/// The tables, copied: blocks by stack and size, and the stacks' return addresses.
pub(super) struct Raw {
    pub(super) config: Config,
    pub(super) blocks: HashMap<Block, u64>,
    pub(super) stacks: HashMap<StackId, Vec<usize>>,
    pub(super) lost: u64,
}

/// Copies the tables; `None` when not tracing. The caller is [`Busy`].
pub(super) fn copy(_busy: &Busy) -> Option<Raw> {
    CONTROL.lock().with(|control| {
        let mut raw = Raw {
            config: control.config?,
            blocks: HashMap::new(),
            stacks: HashMap::new(),
            lost: blocks::lost() + u64::from(stacks::lost()),
        };
        for block in blocks::copy() {
            if block.stack() != StackId::TRACER {
                *raw.blocks.entry(block).or_default() += 1;
            }
        }
        for block in raw.blocks.keys() {
            raw.stacks.entry(block.stack()).or_insert_with(|| stack(block.stack()));
        }
        Some(raw)
    })
}

/// The stack that allocated the block at an address, if that is traced. The caller is [`Busy`].
pub(super) fn find(address: usize, _busy: &Busy) -> Option<(Config, Vec<usize>)> {
    CONTROL.lock().with(|control| {
        let block = blocks::find(address).filter(|block| block.stack() != StackId::TRACER)?;
        Some((control.config?, stack(block.stack())))
    })
}

/// The return addresses of a stack. The caller is [`Busy`].
pub(super) fn stack_of(id: StackId, _busy: &Busy) -> Option<(Config, Vec<usize>)> {
    CONTROL.lock().with(|control| Some((control.config?, stack(id))))
}

fn stack(id: StackId) -> Vec<usize> {
    let mut frames = [0; FRAMES_MAX + super::capture::ALLOCATOR_FRAMES];
    let len = stacks::copy(id, &mut frames);
    frames[..len].to_vec()
}

/// Takes `CONTROL`, `SYMBOLS` and `CODE`, for a fork.
pub(super) fn acquire() {
    let _acquired = CONTROL.acquire();
    symbols::acquire();
    rules::acquire();
}

/// Frees all three.
///
/// # Safety
/// After [`acquire`], on the same thread or in its forked child.
pub(super) unsafe fn release() {
    // SAFETY: the caller took them.
    unsafe {
        rules::release();
        symbols::release();
        CONTROL.release();
    }
}
