//! Finding leaks: the call sites that hold more memory after each run of the same code.

use core::cell::Cell;
use core::fmt;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::snapshot;
use super::text::Bytes;
use crate::trace::guard::Session;
use crate::trace::names::traceback::Traceback;
use crate::trace::record::config::{Config, StartError};
use crate::trace::record::session;
use crate::trace::record::stacks::StackId;
use crate::trace::record::state::Busy;

/// How often [`find_growth`] runs the code.
///
/// ```
/// use pymalloc::trace::Runs;
///
/// assert_eq!(Runs::new().warm_up(3).counted(4), Runs::default());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[must_use]
pub struct Runs {
    warm_up: usize,
    counted: usize,
}

impl Runs {
    /// Three runs to warm up and four counted ones, as CPython's `regrtest -R 3:4`.
    pub const fn new() -> Self {
        Self { warm_up: 3, counted: 4 }
    }

    /// Sets the number of runs before the first count, in which caches may fill.
    pub const fn warm_up(mut self, runs: usize) -> Self {
        self.warm_up = runs;
        self
    }

    /// Sets the number of counted runs; not 0.
    pub const fn counted(mut self, runs: usize) -> Self {
        self.counted = runs;
        self
    }
}

impl Default for Runs {
    fn default() -> Self {
        Self::new()
    }
}

/// A call site that held more blocks after each run than before it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Growth {
    /// Where the blocks were allocated.
    pub traceback: Traceback,
    /// How many more blocks were live after each counted run, run by run.
    pub blocks: Vec<usize>,
    /// How many more bytes were live after all counted runs; negative if smaller blocks took the place of larger ones.
    pub bytes: isize,
}

impl fmt::Display for Growth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = Bytes(self.bytes as f64);
        writeln!(f, "{}: {bytes} more, blocks by run: {:?}", self.traceback.cause(), self.blocks)?;
        write!(f, "{}", self.traceback)
    }
}

/// Why [`find_growth`] could not search.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GrowthError {
    /// There are no runs to count.
    NoRuns,
    /// Tracing did not start.
    Start(StartError),
    /// Another part of the program is tracing, but not every allocation.
    Sampled,
    /// [`Pymalloc`](crate::Pymalloc) is not the program's global allocator: nothing would ever grow.
    NotTheAllocator,
    /// While the code ran, tracing was stopped, or a block could not be recorded with its whole stack.
    Interrupted,
    /// The code that a search runs has started a search of its own.
    Nested,
}

impl fmt::Display for GrowthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRuns => write!(f, "there are no runs to count"),
            Self::Start(error) => write!(f, "{error}"),
            Self::Sampled => write!(f, "memory allocations are being sampled: growth needs all of them"),
            Self::NotTheAllocator => write!(f, "Pymalloc is not the global allocator: nothing is traced"),
            Self::Interrupted => write!(f, "tracing ended while the code ran"),
            Self::Nested => write!(f, "a search for growth can't run inside of another"),
        }
    }
}

impl core::error::Error for GrowthError {}

/// While it lives, the calling thread is in a search for growth.
struct Inside {
    _private: (),
}

thread_local! {
    static LOOKS: Cell<bool> = const { Cell::new(false) };
}

impl Inside {
    /// `None` if the thread is inside already.
    fn enter() -> Option<Self> {
        (!LOOKS.replace(true)).then(|| Self { _private: () })
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        LOOKS.set(false);
    }
}

/// Calls `run` several times, and returns the call sites that held more blocks after each counted run than before it.
///
/// The largest growth comes first. Meanwhile every allocation of every thread is traced; tracing is started if it is
/// not on. Another thread's call site is reported only if it, too, grows with each run.
///
/// Calls by different threads wait for each other, so `run` must not wait for a thread that calls this. A call by `run`
/// itself is an error.
///
/// # Errors
/// See [`GrowthError`].
pub fn find_growth<R>(runs: Runs, mut run: impl FnMut() -> R) -> Result<Vec<Growth>, GrowthError> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    if runs.counted == 0 {
        return Err(GrowthError::NoRuns);
    }
    let _inside = Inside::enter().ok_or(GrowthError::Nested)?;
    // A poisoned lock is good: it guards no data that a run's panic could have damaged.
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let session = match Session::start(Config::new()) {
        Ok(session) => Some(session),
        Err(StartError::AlreadyTracing) => None,
        Err(error) => return Err(GrowthError::Start(error)),
    };
    if session::config().is_some_and(|config| config.interval.is_some()) {
        return Err(GrowthError::Sampled);
    }
    let probe = Box::new(0_u64);
    if snapshot::traceback_of(core::ptr::from_ref(core::hint::black_box(&*probe)).addr()).is_none() {
        return Err(GrowthError::NotTheAllocator);
    }
    // Hidden from the compiler, which could unroll the loops: then each run would have a call stack of its own.
    let runs = core::hint::black_box(runs);
    for _ in 0..runs.warm_up {
        drop(run());
    }
    let mut counts = vec![count()?];
    for _ in 0..runs.counted {
        drop(run());
        counts.push(count()?);
    }
    let growth = growing(&counts)?;
    drop(session);
    Ok(growth)
}

/// Blocks and bytes by stack.
type ByStack = HashMap<StackId, (usize, usize)>;

fn count() -> Result<ByStack, GrowthError> {
    let busy = Busy::enter();
    let raw = session::copy(&busy).ok_or(GrowthError::Interrupted)?;
    if raw.lost > 0 {
        return Err(GrowthError::Interrupted);
    }
    let mut counts = ByStack::new();
    for (block, &blocks) in &raw.blocks {
        let sum = counts.entry(block.stack()).or_default();
        sum.0 += blocks as usize;
        sum.1 += (blocks * block.bytes()) as usize;
    }
    Ok(counts)
}

fn growing(counts: &[ByStack]) -> Result<Vec<Growth>, GrowthError> {
    let busy = Busy::enter();
    let (Some(first), Some(last)) = (counts.first(), counts.last()) else { return Ok(Vec::new()) };
    let of = |counts: &ByStack, stack| counts.get(stack).copied().unwrap_or_default();
    let mut found = Vec::new();
    for stack in last.keys() {
        let steps = counts.windows(2).map(|pair| of(&pair[1], stack).0.checked_sub(of(&pair[0], stack).0));
        let steps: Option<Vec<usize>> = steps.map(|step| step.filter(|&step| step > 0)).collect();
        let Some(blocks) = steps else { continue };
        let bytes = of(last, stack).1 as isize - of(first, stack).1 as isize;
        let traceback = snapshot::traceback_of_stack(*stack, &busy).ok_or(GrowthError::Interrupted)?;
        found.push(Growth { traceback, blocks, bytes });
    }
    found.sort_by_key(|growth| core::cmp::Reverse((growth.bytes, growth.traceback.clone())));
    Ok(found)
}

/// Calls `run` as often as [`Runs::default`] says, and panics if a call site holds more blocks after each counted run.
///
/// It is the test for leaks that CPython runs as `regrtest -R`.
///
/// ```
/// # #[global_allocator] static GLOBAL: pymalloc::Pymalloc = pymalloc::Pymalloc::new();
/// use pymalloc::trace::assert_no_growth;
///
/// let mut numbers = Vec::with_capacity(8);
/// assert_no_growth(|| {
///     numbers.clear();
///     numbers.extend(0..8);
/// });
/// ```
///
/// ```should_panic
/// # #[global_allocator] static GLOBAL: pymalloc::Pymalloc = pymalloc::Pymalloc::new();
/// pymalloc::trace::assert_no_growth(|| Box::leak(Box::new(1)));
/// ```
///
/// # Panics
/// If call sites grow: the message lists them with their frames. Also if the search fails ([`GrowthError`]).
#[doc(alias = "regrtest")]
#[doc(alias = "refleak")]
#[track_caller]
pub fn assert_no_growth<R>(run: impl FnMut() -> R) {
    match find_growth(Runs::default(), run) {
        Ok(growth) if growth.is_empty() => {}
        Ok(growth) => {
            let sites: Vec<String> = growth.iter().map(Growth::to_string).collect();
            panic!("memory grows with each run at {} call sites:\n{}", growth.len(), sites.concat());
        }
        Err(error) => panic!("can't look for growth: {error}"),
    }
}
