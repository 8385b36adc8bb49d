//! The tracer (feature `trace`): tells which calls allocated the memory that is live, as `tracemalloc` does for Python.
//!
//! While it is off, an allocation from a pool costs not one instruction more than without the feature, and a large one
//! costs a load and a branch that is never taken. [`start`] makes every thread cache look empty and full, so that each
//! call takes the slow path, which records the block with the calls that led to it.
//!
//! ```
//! # #[global_allocator] static GLOBAL: pymalloc::Pymalloc = pymalloc::Pymalloc::new();
//! use pymalloc::trace::{self, By, Config};
//!
//! trace::start(Config::new())?;
//! let names: Vec<String> = (0..100).map(|number| number.to_string()).collect();
//! let snapshot = trace::take_snapshot()?;
//! println!("{}", snapshot.statistics(By::Line).top(10));
//! # let folder = std::env::temp_dir().join(format!("pymalloc-{}", std::process::id()));
//! # std::fs::create_dir_all(&folder)?;
//! # std::env::set_current_dir(&folder)?;
//! snapshot.save("heap.pb.gz")?; // for `go tool pprof` and others
//! # #[cfg(feature = "flamegraph")]
//! snapshot.save_flame_graph("heap.svg", "Who holds the memory")?; // with the feature `flamegraph`
//! trace::stop();
//! # std::fs::remove_dir_all(&folder)?;
//! # drop(names);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What is traced
//! Every block that any thread gets from [`Pymalloc`](crate::Pymalloc) after [`start`], small or large, until it is
//! freed or [`stop`] is called; with [`Config::sample_every`] a sample of them. Sizes are the requested ones.
//!
//! The tracer does not see a `realloc` that keeps its block in its size class. The block stays recorded with its first
//! size, which is then off by at most 7 bytes as a rule, and by less than the alignment in any case. A `realloc` that
//! moves the block counts as an allocation and a free. Blocks allocated before the start are unknown: freeing them has
//! no effect here, nor has freeing a traced block after the stop.
//!
//! Snapshots leave out what the tracer itself allocates; [`overhead_bytes`] counts it.
//!
//! # Threads, forks, signals
//! Every function may be called from any thread at any time, but not from signal handlers, nor from destructors of
//! thread-locals. A forked child goes on tracing, with what its parent had.
//!
//! # Names
//! Names come from the debug information of the program: `debug = 1` in its Cargo profile is enough for lines and
//! inlined calls; symbols alone give functions.
//!
//! # Layers
//! | layer | files |
//! |---|---|
//! | memory of its own | `memory` |
//! | inside the allocator's calls | `hook`, `thread`, `sampling`, `capture`, `walk`, `rules`, `loaded`, `find`, `elf`, `stacks`, `blocks` |
//! | sessions | `config`, `session`, `state`, `peaks` |
//! | the debug hooks' dump | `origins` |
//! | names | `symbols`, `files`, `modules`, `recorded`, `traceback` |
//! | reading | `snapshot`, `statistics`, `filter`, `text`, `growth` |
//! | a session that ends when dropped | `guard` |
//! | files | `pprof`, `collapsed`, with the feature `flamegraph` also `flame` |
//! | memory over time | `sums`, `encode`, `record/timeline`; the folder `timeline` |
//! | answers at a socket | the folder `serve` |
//! | for the heap's graph | `access` |

#[cfg(feature = "graph")]
pub(crate) mod access;
mod guard;
mod names;
mod read;
pub(crate) mod record;
#[cfg(all(target_os = "linux", target_pointer_width = "64", not(target_env = "ohos")))]
mod serve;
mod timeline;
mod write;

pub use guard::Session;
pub use names::traceback::{Frame, Traceback};
pub use read::filter::{Filter, PatternError};
pub use read::growth::{Growth, GrowthError, Runs, assert_no_growth, find_growth};
pub use read::snapshot::{NotTracing, Snapshot, Trace};
pub use read::statistics::{By, Ranking, Row, Statistic, StatisticDiff, Top};
pub use record::config::{Config, StartError};
#[cfg(all(target_os = "linux", target_pointer_width = "64", not(target_env = "ohos")))]
pub use serve::{Look, ServeError, Server, Watch, WatchError, serve};
pub use timeline::{Moment, Recording, RecordingError, Timeline, TimelineConfig, TimelineError};
pub use write::pprof::LoadError;

/// Starts tracing, which lasts until [`stop`] is called. A [`Session`] ends by itself.
///
/// # Errors
/// If the configuration is out of range, if tracing is on already, or if the platform is not supported. Nothing has
/// changed then.
#[doc(alias = "tracemalloc.start")]
pub fn start(config: Config) -> Result<(), StartError> {
    record::start(config).map(|_| ())
}

/// Stops tracing and forgets all blocks; does nothing when not tracing.
#[doc(alias = "tracemalloc.stop")]
pub fn stop() {
    record::session::stop_if(|_| true);
}

/// Whether blocks are being traced.
#[doc(alias = "tracemalloc.is_tracing")]
pub fn is_tracing() -> bool {
    record::session::config().is_some()
}

/// How blocks are being traced; `None` when they are not.
#[doc(alias = "tracemalloc.get_traceback_limit")]
pub fn config() -> Option<Config> {
    record::session::config()
}

/// Forgets all blocks traced so far, and goes on tracing.
#[doc(alias = "tracemalloc.clear_traces")]
pub fn clear() {
    record::session::clear();
}

/// Bytes of all traced blocks, as [`traced_memory`] returns them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct TracedMemory {
    /// Bytes alive now.
    pub bytes_live: usize,
    /// Most bytes that were alive at one time since the start, [`clear`] or [`reset_peak`].
    pub bytes_peak: usize,
}

/// Bytes of all traced blocks, now and at most.
///
/// Estimates when sampling; 0 when not tracing. Exact whenever no other thread allocates or frees.
///
/// ```
/// # #[global_allocator] static GLOBAL: pymalloc::Pymalloc = pymalloc::Pymalloc::new();
/// use pymalloc::trace;
///
/// trace::start(trace::Config::new())?;
/// let before = trace::traced_memory().bytes_live;
/// let kilobyte = vec![0_u8; 1024];
/// drop(vec![0_u8; 4096]);
/// let traced = trace::traced_memory();
/// assert_eq!((traced.bytes_live - before, traced.bytes_peak - before), (1024, 1024 + 4096));
/// trace::stop();
/// # drop(kilobyte);
/// # Ok::<(), trace::StartError>(())
/// ```
#[doc(alias = "tracemalloc.get_traced_memory")]
pub fn traced_memory() -> TracedMemory {
    let (live, peak) = record::peaks::traced_memory();
    TracedMemory { bytes_live: live as usize, bytes_peak: peak as usize }
}

/// Sets the peak of [`traced_memory`] to the bytes that are live now.
#[doc(alias = "tracemalloc.reset_peak")]
pub fn reset_peak() {
    record::session::reset_peak();
}

/// Bytes of all memory that the tracer uses: tables, stacks, names, debug information read into memory, and snapshots
/// taken since the start that are still alive.
///
/// It leaves out what the system's C library and the loader allocate by other means, and the program's file, whose
/// debug information is mapped while names are looked up.
#[doc(alias = "tracemalloc.get_tracemalloc_memory")]
pub fn overhead_bytes() -> usize {
    record::session::overhead() as usize
}

/// Takes a snapshot of all traced blocks.
///
/// The program's other threads keep running; each of them waits, at most, until one part of the tables is copied.
/// Looking up the names of new frames may take seconds in a large program: see [`take_snapshot_with`].
///
/// # Errors
/// When not tracing.
#[doc(alias = "tracemalloc.take_snapshot")]
#[doc(alias = "prof.dump")]
pub fn take_snapshot() -> Result<Snapshot, NotTracing> {
    read::snapshot::take(&mut |_, _| {})
}

/// Takes a snapshot as [`take_snapshot`] does, and reports progress.
///
/// It calls `progress` with the number of frames whose names are found and the number of all frames. What `progress`
/// allocates is not traced.
///
/// # Errors
/// When not tracing.
pub fn take_snapshot_with(mut progress: impl FnMut(usize, usize)) -> Result<Snapshot, NotTracing> {
    read::snapshot::take(&mut progress)
}

/// Takes a snapshot of the blocks that were live at the peak.
///
/// [`Config::keep_peak`] makes the tracer keep them. Their bytes may be up to an eighth below [`traced_memory`]'s peak.
/// If nothing was kept, because it was not asked for or because less than 64 KiB was ever live, the snapshot has the
/// blocks that are live now. [`Snapshot::taken_at`] is the time of this call.
///
/// ```
/// # #[global_allocator] static GLOBAL: pymalloc::Pymalloc = pymalloc::Pymalloc::new();
/// use pymalloc::trace;
///
/// trace::start(trace::Config::new().keep_peak())?;
/// drop(vec![1_u8; 1 << 20]);
/// let peak = trace::take_peak_snapshot()?;
/// assert!(peak.bytes() >= 1 << 20 && trace::traced_memory().bytes_live < 1 << 20);
/// trace::stop();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// When not tracing.
pub fn take_peak_snapshot() -> Result<Snapshot, NotTracing> {
    read::snapshot::take_peak(&mut |_, _| {})
}

/// Takes a snapshot as [`take_peak_snapshot`] does, and reports progress as [`take_snapshot_with`] does.
///
/// # Errors
/// When not tracing.
pub fn take_peak_snapshot_with(mut progress: impl FnMut(usize, usize)) -> Result<Snapshot, NotTracing> {
    read::snapshot::take_peak(&mut progress)
}

/// Where the block at `address` was allocated; `None` if it is not known to the tracer.
///
/// ```
/// # #[global_allocator] static GLOBAL: pymalloc::Pymalloc = pymalloc::Pymalloc::new();
/// use pymalloc::trace;
///
/// trace::start(trace::Config::new())?;
/// let number = Box::new(7);
/// let traceback = trace::traceback_of(&raw const *number).expect("traced");
/// println!("{traceback}");
/// trace::stop();
/// # Ok::<(), trace::StartError>(())
/// ```
#[doc(alias = "tracemalloc.get_object_traceback")]
pub fn traceback_of<T: ?Sized>(address: *const T) -> Option<Traceback> {
    read::snapshot::traceback_of(address.cast::<u8>().addr())
}
