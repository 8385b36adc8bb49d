//! [`Snapshot`]: the blocks that were live at one moment, and the calls that allocated them.

use core::fmt;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use super::filter::Filter;
use crate::trace::names::modules::{self, Module};
use crate::trace::names::symbols::{self, Symbols};
use crate::trace::names::traceback::{Frame, Traceback};
use crate::trace::record::config::Config;
use crate::trace::record::loaded::{self, Number};
use crate::trace::record::session::{self, Raw};
use crate::trace::record::stacks::StackId;
use crate::trace::record::state::Busy;

/// The blocks that were live at one moment, by call stack and size, with the names of all frames.
///
/// To read it, neither the tracer nor the program is needed any more.
///
/// ```
/// # #[global_allocator] static GLOBAL: pymalloc::Pymalloc = pymalloc::Pymalloc::new();
/// use pymalloc::trace::{self, By, Config};
///
/// trace::start(Config::new())?;
/// let before = trace::take_snapshot()?;
/// let kept: Vec<String> = (0..1000).map(|number| format!("a string of number {number}")).collect();
/// let after = trace::take_snapshot()?;
/// trace::stop();
///
/// println!("{}", after.statistics(By::Line).top(10));
/// println!("{}", after.compare_to(&before, By::Function).top(10));
/// # assert!(after.bytes() - before.bytes() >= 1000 * 20);
/// # drop(kept);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[doc(alias = "tracemalloc.Snapshot")]
pub struct Snapshot {
    pub(in crate::trace) places: Vec<CodePlace>,
    pub(in crate::trace) stacks: Vec<Stack>,
    /// Sorted, each stack and size once.
    pub(in crate::trace) traces: Vec<SizedBlocks>,
    pub(in crate::trace) modules: Vec<Module>,
    /// Mean bytes between samples; 0 when every block was traced.
    pub(in crate::trace) interval: u64,
    pub(in crate::trace) frames: usize,
    pub(in crate::trace) lost: u64,
    pub(in crate::trace) taken_at: SystemTime,
}

/// A return address and its calls, innermost first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::trace) struct CodePlace {
    pub(in crate::trace) address: u64,
    /// Index into the snapshot's modules.
    pub(in crate::trace) module: Option<usize>,
    /// Empty if nothing is known of it.
    pub(in crate::trace) frames: Arc<[Frame]>,
}

/// A call stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::trace) struct Stack {
    /// Indexes into the snapshot's places, innermost first.
    pub(in crate::trace) places: Vec<usize>,
    pub(in crate::trace) traceback: Traceback,
}

/// Blocks of one stack and size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::trace) struct SizedBlocks {
    /// Index into the snapshot's stacks.
    pub(in crate::trace) stack: usize,
    pub(in crate::trace) bytes: u64,
    /// Blocks as sampled, not weighted.
    pub(in crate::trace) count: u64,
}

/// Blocks of one size that the same calls allocated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[doc(alias = "tracemalloc.Trace")]
pub struct Trace<'snapshot> {
    /// The requested size of each block, in bytes.
    pub block_bytes: usize,
    /// The number of blocks; in a sampled snapshot, of the sampled ones.
    pub blocks: usize,
    /// The calls that allocated them.
    pub traceback: &'snapshot Traceback,
}

/// There is nothing to take a snapshot of: no session of the tracer runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NotTracing;

impl fmt::Display for NotTracing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "memory allocations must be traced to take a snapshot")
    }
}

impl core::error::Error for NotTracing {}

/// Takes a snapshot; `progress` is told how many addresses have their names, and of how many.
pub(in crate::trace) fn take(progress: &mut dyn FnMut(usize, usize)) -> Result<Snapshot, NotTracing> {
    let busy = Busy::enter();
    let raw = session::copy(&busy).ok_or(NotTracing)?;
    let snapshot = with_names(&raw, progress);
    symbols::release_debug_information();
    Ok(snapshot)
}

/// As [`take`], of the blocks that were live at the peak.
pub(in crate::trace) fn take_peak(progress: &mut dyn FnMut(usize, usize)) -> Result<Snapshot, NotTracing> {
    let busy = Busy::enter();
    let raw = session::copy_peak(&busy).ok_or(NotTracing)?;
    let snapshot = with_names(&raw, progress);
    symbols::release_debug_information();
    Ok(snapshot)
}

/// The names of the frames of the block at an address.
pub(in crate::trace) fn traceback_of(address: usize) -> Option<Traceback> {
    let busy = Busy::enter();
    let (config, addresses) = session::find(address, &busy)?;
    Some(named(&Symbols::new(), &config, &addresses))
}

/// The names of one stack's frames. The caller is [`Busy`].
pub(in crate::trace) fn traceback_of_stack(stack: StackId, busy: &Busy) -> Option<Traceback> {
    let (config, addresses) = session::stack_of(stack, busy)?;
    Some(named(&Symbols::new(), &config, &addresses))
}

/// The names of a stack's frames.
pub(in crate::trace) fn named(symbols: &Symbols, config: &Config, addresses: &[usize]) -> Traceback {
    let places = addresses.iter().map(|&word| place(symbols, word, &mut Vec::new())).collect();
    let places = without_allocator(places, config.frames);
    traceback(places.iter())
}

/// Removes the allocator's frames where they are inlined into its caller.
pub(in crate::trace) fn without_inlined_allocator(frames: Arc<[Frame]>) -> Arc<[Frame]> {
    let own = frames.iter().take_while(|frame| frame.is_allocator()).count();
    if own > 0 && own < frames.len() { frames[own..].into() } else { frames }
}

fn place(symbols: &Symbols, word: usize, modules: &mut Vec<Module>) -> CodePlace {
    let frames = without_inlined_allocator(symbols.look_up(word));
    let address = loaded::address_of(word) as u64;
    CodePlace { address, module: module_of(address, loaded::number_of(word), modules), frames }
}

/// The index of an address's module in `modules`; a module that is unloaded by now is added there.
fn module_of(address: u64, number: Number, modules: &mut Vec<Module>) -> Option<usize> {
    let was = modules::of(number);
    let is_it = |module: &Module| {
        module.holds(address)
            && was.as_ref().is_none_or(|was| (&was.file, &was.build_id) == (&module.file, &module.build_id))
    };
    modules.iter().position(is_it).or_else(|| {
        modules.push(was?);
        Some(modules.len() - 1)
    })
}

/// Removes the allocator's frames at the inner end, and the frames beyond the limit at the outer end.
pub(in crate::trace) fn without_allocator(mut places: Vec<CodePlace>, limit: usize) -> Vec<CodePlace> {
    let is_own = |place: &&CodePlace| !place.frames.is_empty() && place.frames.iter().all(Frame::is_allocator);
    let own = places.iter().take_while(is_own).count();
    // A program's own crate may have the allocator's name: then keep all frames rather than none.
    let own = if own == places.len() { 0 } else { own };
    places.drain(..own);
    places.truncate(limit);
    places
}

pub(in crate::trace) fn traceback<'place>(places: impl Iterator<Item = &'place CodePlace>) -> Traceback {
    let unknown = Frame::unknown();
    let frames = places.flat_map(|place| {
        let frames = if place.frames.is_empty() { core::slice::from_ref(&unknown) } else { &place.frames[..] };
        frames.to_vec()
    });
    Traceback::new(frames.collect())
}

fn with_names(raw: &Raw, progress: &mut dyn FnMut(usize, usize)) -> Snapshot {
    let symbols = Symbols::new();
    let mut modules = symbols::modules();
    let addresses: HashSet<usize> = raw.stacks.values().flatten().copied().collect();
    let mut addresses: Vec<usize> = addresses.into_iter().collect();
    // Neighbours are in the same parts of the debug information.
    addresses.sort_unstable();
    let mut known = HashMap::new();
    for (done, &address) in addresses.iter().enumerate() {
        progress(done, addresses.len());
        known.insert(address, place(&symbols, address, &mut modules));
    }
    progress(addresses.len(), addresses.len());

    let mut build = Builder::default();
    // In a fixed order, so that equal tables make equal snapshots.
    let mut ids: Vec<StackId> = raw.stacks.keys().copied().collect();
    ids.sort_unstable_by_key(|&id| &raw.stacks[&id]);
    let mut numbers = HashMap::new();
    for id in ids {
        let places = raw.stacks[&id].iter().filter_map(|address| known.get(address).cloned()).collect();
        let places = without_allocator(places, raw.config.frames);
        numbers.insert(id, build.stack(places));
    }
    for (block, &count) in &raw.blocks {
        build.add(numbers[&block.stack()], block.bytes(), count);
    }
    Snapshot {
        modules,
        interval: raw.config.interval_bytes(),
        frames: raw.config.frames,
        lost: raw.lost,
        taken_at: SystemTime::now(),
        ..build.finish()
    }
}

/// Puts a snapshot together, each place, stack and trace once.
#[derive(Default)]
pub(in crate::trace) struct Builder {
    places: Vec<CodePlace>,
    place_numbers: HashMap<(u64, Option<usize>), usize>,
    stacks: Vec<Stack>,
    stack_numbers: HashMap<Vec<usize>, usize>,
    traces: HashMap<(usize, u64), u64>,
}

impl Builder {
    /// The number of a stack.
    pub(in crate::trace) fn stack(&mut self, places: Vec<CodePlace>) -> usize {
        let numbers: Vec<usize> = places
            .into_iter()
            .map(|place| {
                *self.place_numbers.entry((place.address, place.module)).or_insert_with(|| {
                    self.places.push(place);
                    self.places.len() - 1
                })
            })
            .collect();
        if let Some(&number) = self.stack_numbers.get(&numbers) {
            return number;
        }
        let traceback = traceback(numbers.iter().map(|&number| &self.places[number]));
        self.stacks.push(Stack { places: numbers.clone(), traceback });
        self.stack_numbers.insert(numbers, self.stacks.len() - 1);
        self.stacks.len() - 1
    }

    /// Adds blocks of a size to a stack.
    pub(in crate::trace) fn add(&mut self, stack: usize, bytes: u64, count: u64) {
        let sum = self.traces.entry((stack, bytes)).or_default();
        *sum = sum.saturating_add(count);
    }

    /// Adds blocks to a stack, of which only the number and the sum of their bytes are known. They are entered with two
    /// sizes, one byte apart, so that the sum is exact.
    pub(in crate::trace) fn add_sum(&mut self, stack: usize, bytes: u64, blocks: u64) {
        let (Some(bytes_each), Some(larger)) = (bytes.checked_div(blocks), bytes.checked_rem(blocks)) else { return };
        for (bytes, blocks) in [(bytes_each, blocks - larger), (bytes_each + 1, larger)] {
            if blocks > 0 {
                self.add(stack, bytes, blocks);
            }
        }
    }

    /// The snapshot. The fields that do not come from its blocks are empty.
    pub(in crate::trace) fn finish(self) -> Snapshot {
        let traces = self.traces.into_iter().map(|((stack, bytes), count)| SizedBlocks { stack, bytes, count });
        let mut traces: Vec<SizedBlocks> = traces.collect();
        traces.sort_unstable();
        Snapshot {
            places: self.places,
            stacks: self.stacks,
            traces,
            modules: Vec::new(),
            interval: 0,
            frames: 0,
            lost: 0,
            taken_at: SystemTime::UNIX_EPOCH,
        }
    }
}

impl Snapshot {
    /// The blocks, by size and traceback.
    pub fn traces(&self) -> impl Iterator<Item = Trace<'_>> {
        self.traces.iter().map(|trace| Trace {
            block_bytes: trace.bytes as usize,
            blocks: trace.count as usize,
            traceback: &self.stacks[trace.stack].traceback,
        })
    }

    /// The most frames of a trace, as tracing was configured.
    pub fn frames(&self) -> usize {
        self.frames
    }

    /// Mean bytes between samples; `None` when every block was traced.
    pub fn sampled_every(&self) -> Option<usize> {
        (self.interval != 0).then_some(self.interval as usize)
    }

    /// The number of blocks that could not be recorded, or not with their whole stack.
    ///
    /// Either the OS gave the tracer no memory, or the thread had no room left on its own stack.
    pub fn lost_blocks(&self) -> usize {
        self.lost as usize
    }

    /// When it was taken.
    pub fn taken_at(&self) -> SystemTime {
        self.taken_at
    }

    /// A copy with only the traces that pass the filters.
    ///
    /// A trace passes if at least one including filter matches it, or there is none, and if no excluding filter matches
    /// it.
    pub fn filter(&self, filters: &[Filter]) -> Self {
        let _busy = Busy::enter();
        let passes: Vec<bool> =
            self.stacks.iter().map(|stack| super::filter::passes(filters, &stack.traceback)).collect();
        let traces = self.traces.iter().copied().filter(|trace| passes[trace.stack]).collect();
        Self { traces, ..self.clone() }
    }
}
