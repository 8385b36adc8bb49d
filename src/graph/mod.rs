//! The heap as a graph of references (feature `graph`): what refers to a block, what a block keeps alive, what is
//! leaked.
//!
//! It does what `objgraph` and the mark phase of Python's collector do for Python. The program needs the tracer and no
//! other change. [`take()`] stops the program's threads for some milliseconds. It looks at every word of every block,
//! static, thread-local, stack and register: a word that points into a block is a reference to it.
//!
//! ```
//! # #[global_allocator] static GLOBAL: pymalloc::Pymalloc = pymalloc::Pymalloc::new();
//! use pymalloc::graph::{self, By, Config};
//! use pymalloc::trace;
//!
//! trace::start(trace::Config::new())?;
//! let kept: Vec<String> = (0..100).map(|number| format!("{number:50}")).collect();
//! Box::leak(Box::new([7_u64; 6]));
//!
//! let graph = graph::take(Config::new())?;
//! println!("{}", graph.leaks());
//! println!("{}", graph.retained(By::Function).top(10));
//! println!("{}", graph.path_to(kept[7].as_ptr())?);
//! # drop(kept);
//! trace::stop();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Three answers
//! A block is *reachable* from statics, thread-locals, stacks and registers. Or it is reachable only *from foreign
//! memory*: memory that the C library's `malloc` gave to other code, or mappings of the program's own. Or it is
//! *unreachable*: nothing will free it.
//!
//! # What counts as a reference
//! Any aligned word whose value is an address in a block, from its first byte to its last. So a number may look like a
//! reference and hide a leak. Dead values that are still in memory, in stacks and in spare capacity, may hide one, too.
//! Vacant buckets of hash tables are recognised and left out. A weak reference (`rc::Weak`) counts as any other. A
//! reference that is not kept as an address (compressed, inverted, with high bits set, in a file) is not seen: a block
//! that has only such references counts as unreachable. `docs/graph.md` has the table.
//!
//! # Threads, signals
//! The first call installs a handler for the highest real-time signal that the program does not use. System calls that
//! it interrupts go on, except those that never do (`poll`, `nanosleep` and others of `signal(7)`): they return
//! `EINTR`, as after any signal. A thread that blocks all signals can't be stopped: see
//! [`Config::go_on_without_threads`].
//!
//! # Layers
//! | layer | files |
//! |---|---|
//! | stopping threads, scanning memory | `take`, `stop`, `modules`, `scan/` |
//! | names, answers | `build`, `read/` |
//! | files | `write/` |
//! | tests, and at exit | `check` |

mod build;
mod check;
mod config;
mod found;
#[cfg(all(target_os = "linux", target_pointer_width = "64", not(target_env = "ohos")))]
mod modules;
mod read;
#[cfg(all(target_os = "linux", target_pointer_width = "64", not(target_env = "ohos")))]
mod scan;
#[cfg(all(target_os = "linux", target_pointer_width = "64", not(target_env = "ohos")))]
mod stop;
#[cfg(all(target_os = "linux", target_pointer_width = "64", not(target_env = "ohos")))]
mod take;
mod write;

pub use build::HeapGraph;
pub use check::{LeakError, assert_no_leaks, find_leaks};
pub use config::{Config, Error};
pub use read::answers::{Block, Place, Reach, Reference, Summary};
pub use read::leaks::{Cycle, Leak, Leaks};
pub use read::paths::{NotABlock, Path, Paths, Step};
pub use read::retained::{By, Retained, RetainedRow};

/// How far [`take_with`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Progress {
    /// How many bytes of the blocks are scanned.
    Scanned {
        /// Bytes done.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// How many call stacks have their names.
    Named {
        /// Stacks done.
        done: usize,
        /// Stacks in all.
        total: usize,
    },
}

/// Takes a graph of the heap.
///
/// The other threads stand still while the process is copied (`fork`): some milliseconds for a gigabyte. They go on
/// while the copy scans; only the calling thread waits for it.
///
/// # Errors
/// See [`Error`]; the program goes on as it was.
pub fn take(config: Config) -> Result<HeapGraph, Error> {
    take_with(config, |_| {})
}

/// Takes a graph of the heap as [`take()`] does, and tells `progress` how far it is.
///
/// # Errors
/// As for [`take()`].
#[inline]
pub fn take_with(config: Config, mut progress: impl FnMut(Progress)) -> Result<HeapGraph, Error> {
    #[cfg(all(target_os = "linux", target_pointer_width = "64", not(target_env = "ohos")))]
    if crate::os::TRACES {
        return take::take(config, &mut progress);
    }
    let _ = (config, &mut progress);
    Err(Error::Unsupported)
}
