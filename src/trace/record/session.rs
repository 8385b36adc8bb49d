//! Starting, stopping and reading: one at a time.
//!
//! # Locks
//! The order is `CONTROL`, then `SYMBOLS`, then `RECORDER` (`timeline`), then the heap's locks, then the buffers
//! (`capture`), then the last ones: `LEARNING` (`rules`), `TABLE` (`loaded`), the shards' (`stacks`, `blocks`). A fork
//! takes all of them. `CONTROL` and `SYMBOLS` are held while the tracer allocates. No call inside the allocator waits
//! for either; it tries to take `CONTROL` (to keep a peak) outside of all locks of the heap.

use core::ffi::{CStr, c_int};
use core::sync::atomic::Ordering;
use core::time::Duration;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::sync::Arc;

use super::blocks::{self, Block};
use super::capture::{self, FRAMES_MAX};
use super::config::{Config, StartError};
use super::loaded;
use super::memory;
use super::peaks;
use super::rules;
use super::stacks::{self, StackId};
use super::state::{Busy, FRAMES, INTERVAL_BYTES, SESSION, SYSTEM_UNWINDER};
use super::timeline;
use super::walk;
use crate::cache::{GLOBAL, ThreadCache};
use crate::observe::{self, TRACE};
use crate::os;
use crate::os::fork;
use crate::protocols::lock::Lock;
use crate::trace::names::origins;
use crate::trace::names::symbols;

struct Control {
    /// The last session's number.
    sessions: u32,
    config: Option<Config>,
    /// The blocks that were live at the peak, if they are kept.
    peak: Option<Arc<Raw>>,
}

/// Bytes of stack that keeping the peak takes at most, in any build.
const KEEP_PEAK_BYTES: usize = 32 << 10;
/// Fewer bytes are no peak worth keeping.
const PEAK_MIN_BYTES: u64 = 1 << 16;

static CONTROL: Lock<Control> = Lock::new(Control { sessions: 0, config: None, peak: None });

/// Starts a session; returns its number.
pub(in crate::trace) fn start(config: Config) -> Result<u32, StartError> {
    config.check()?;
    if !os::TRACES {
        return Err(StartError::Unsupported);
    }
    CONTROL.lock().with(|control| {
        if control.config.is_some() {
            return Err(StartError::AlreadyTracing);
        }
        control.sessions = control.sessions.wrapping_add(1).max(1);
        control.config = Some(config);
        let interval = config.interval_bytes();
        // Relaxed (all): published by the session's number.
        FRAMES.store(config.frames as u32, Ordering::Relaxed);
        INTERVAL_BYTES.store(interval, Ordering::Relaxed);
        let has_walk = cfg!(any(target_arch = "x86_64", target_arch = "aarch64"));
        SYSTEM_UNWINDER.store(config.system_unwinder || !has_walk, Ordering::Relaxed);
        loaded::begin();
        rules::begin();
        capture::begin();
        stacks::begin(control.sessions);
        blocks::begin(control.sessions, interval);
        ThreadCache::poison_all(&GLOBAL, true);
        peaks::keep_from(if config.keeps_peak { PEAK_MIN_BYTES } else { u64::MAX });
        observe::want(TRACE);
        // Release: pairs with the Acquire in `allocated`. The caches are poisoned, and the tracer is called for every
        // block, before a block is recorded.
        SESSION.store(control.sessions, Ordering::Release);
        origins::install();
        Ok(control.sessions)
    })
}

/// Stops the session that runs, if there is one whose number `is_meant` accepts.
pub(in crate::trace) fn stop_if(is_meant: impl FnOnce(u32) -> bool) {
    let busy = Busy::enter();
    CONTROL.lock().with(|control| {
        if control.config.is_none() || !is_meant(control.sessions) {
            return;
        }
        timeline::end(None, &busy);
        control.config = None;
        symbols::clear();
        peaks::keep_from(u64::MAX);
        control.peak = None;
        origins::remove();
        // Relaxed: a call that reads the old number is refused by the tables below.
        SESSION.store(0, Ordering::Relaxed);
        observe::unwant(TRACE);
        ThreadCache::poison_all(&GLOBAL, false);
        blocks::begin(0, 0);
        stacks::begin(0);
        rules::end();
    });
}

/// Begins a timeline of the session that runs. Returns its number, or `None` if there is a timeline already. The caller
/// is [`Busy`].
///
/// # Errors
/// The system's error number; `ESRCH` if no session runs.
pub(in crate::trace) fn begin_timeline(path: &CStr, every: Duration, _busy: &Busy) -> Result<Option<u32>, c_int> {
    CONTROL.lock().with(|control| {
        let config = control.config.ok_or(libc::ESRCH)?;
        timeline::begin(path, config, every)
    })
}

pub(in crate::trace) fn config() -> Option<Config> {
    CONTROL.lock().with(|control| control.config)
}

pub(in crate::trace) fn clear() {
    CONTROL.lock().with(|control| {
        if control.config.is_some() {
            blocks::clear();
            capture::begin();
            control.forget_peak();
        }
    });
}

pub(in crate::trace) fn reset_peak() {
    CONTROL.lock().with(|control| {
        peaks::reset();
        control.forget_peak();
    });
}

impl Control {
    fn forget_peak(&mut self) {
        self.peak = None;
        if self.config.is_some_and(|config| config.keeps_peak) {
            peaks::keep_from(PEAK_MIN_BYTES);
        }
    }
}

/// Keeps the blocks that are live now as the peak, inside a call of the allocator. Does nothing if another thread holds
/// the tracer's lock, or if the calling thread's stack has no room: then the peak stays due, for another thread.
#[cold]
#[inline(never)]
pub(in crate::trace) fn keep_peak() {
    // The handlers of a fork may allocate while all locks are held.
    if fork::this_thread_forks() || !walk::has_room(KEEP_PEAK_BYTES) {
        return;
    }
    let busy = Busy::enter_in_allocation();
    let Some(mut control) = CONTROL.try_lock() else { return };
    control.with(|control| {
        if control.config.is_some_and(|config| config.keeps_peak) && peaks::is_due() {
            let (current, _) = peaks::traced_memory();
            control.peak = control.copy(&busy).map(Arc::new);
            peaks::keep_from(current + current / 8);
        }
    });
}

/// The blocks that were live at the peak, if they were kept; else those that are live now. The caller is [`Busy`].
pub(in crate::trace) fn copy_peak(busy: &Busy) -> Option<Arc<Raw>> {
    CONTROL.lock().with(|control| match &control.peak {
        Some(peak) => Some(Arc::clone(peak)),
        None => control.copy(busy).map(Arc::new),
    })
}

/// Bytes of memory that the tracer uses.
pub(in crate::trace) fn overhead() -> u64 {
    // Relaxed: a reading.
    let tables = if SESSION.load(Ordering::Relaxed) == 0 {
        0
    } else {
        rules::TABLE_BYTES + blocks::FILTER_BYTES + capture::BUFFERS_BYTES + loaded::table_bytes()
    };
    (tables + memory::mapped_bytes()) as u64 + blocks::tracer_bytes()
}

/// A map whose hashes begin with a constant, because it is made inside an allocation (`keep_peak`). A random number
/// would come from the C library, in a call that may end the thread if another thread has cancelled it.
pub(in crate::trace) type Map<K, V> = HashMap<K, V, BuildHasherDefault<DefaultHasher>>;

/// The tables, copied: blocks by stack and size, and the stacks' return addresses.
pub(in crate::trace) struct Raw {
    pub(in crate::trace) config: Config,
    pub(in crate::trace) blocks: Map<Block, u64>,
    pub(in crate::trace) stacks: Map<StackId, Vec<usize>>,
    pub(in crate::trace) lost: u64,
}

/// Copies the tables; `None` when not tracing. The caller is [`Busy`].
pub(in crate::trace) fn copy(busy: &Busy) -> Option<Raw> {
    CONTROL.lock().with(|control| control.copy(busy))
}

impl Control {
    fn copy(&self, _busy: &Busy) -> Option<Raw> {
        let mut raw = Raw {
            config: self.config?,
            blocks: Map::default(),
            stacks: Map::default(),
            lost: blocks::lost() + u64::from(stacks::lost()) + capture::cut(),
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
    }
}

/// The stack that allocated the block at an address, if that is traced. The caller is [`Busy`].
pub(in crate::trace) fn find(address: usize, _busy: &Busy) -> Option<(Config, Vec<usize>)> {
    CONTROL.lock().with(|control| {
        let block = blocks::find(address).filter(|block| block.stack() != StackId::TRACER)?;
        Some((control.config?, stack(block.stack())))
    })
}

/// The return addresses of a stack. The caller is [`Busy`].
pub(in crate::trace) fn stack_of(id: StackId, _busy: &Busy) -> Option<(Config, Vec<usize>)> {
    CONTROL.lock().with(|control| Some((control.config?, stack(id))))
}

/// The number of the session that runs, and how it traces.
#[cfg(feature = "graph")]
pub(in crate::trace) fn current() -> Option<(u32, Config)> {
    CONTROL.lock().with(|control| Some((control.sessions, control.config?)))
}

/// The return addresses of stacks of the session `number`; `None` if another runs by now. The caller is [`Busy`].
#[cfg(feature = "graph")]
pub(in crate::trace) fn stacks_of(number: u32, ids: &[StackId], _busy: &Busy) -> Option<(Config, Vec<Vec<usize>>)> {
    CONTROL.lock().with(|control| {
        let config = control.config.filter(|_| control.sessions == number)?;
        Some((config, ids.iter().map(|&id| stack(id)).collect()))
    })
}

fn stack(id: StackId) -> Vec<usize> {
    let mut frames = [0; FRAMES_MAX + capture::ALLOCATOR_FRAMES];
    let len = stacks::copy(id, &mut frames);
    frames[..len].to_vec()
}

/// Takes `CONTROL` and `SYMBOLS`, for a fork.
pub(in crate::trace) fn acquire() {
    let _acquired = CONTROL.acquire();
    symbols::acquire();
}

/// Frees both.
///
/// # Safety
/// After [`acquire`], on the same thread or in its forked child.
pub(in crate::trace) unsafe fn release() {
    // SAFETY: the caller took them.
    unsafe {
        symbols::release();
        CONTROL.release();
    }
}
