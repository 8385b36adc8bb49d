//! Scans memory for blocks, references and roots. It allocates nothing, and calls nothing that takes a lock of the C
//! library's. It runs in a copy of the process, or in the process while the other threads stand still.

mod chunks;
mod copy;
mod edges;
mod index;
mod memory;
mod roots;
mod tables;

pub(super) use copy::{Copied, Failure, InProcess, in_copy, in_process};

use super::found::Module;
use crate::os::tasks::Interrupted;
use tables::Tables;

/// What a scan needs to know.
pub(super) struct Input<'input> {
    /// The calling thread: its stack counts from the frame of `take`'s caller.
    pub(super) own: Interrupted,
    /// The other threads that were stopped.
    pub(super) standing: &'input [Interrupted],
    pub(super) modules: &'input [Module],
    /// Whether all other threads were stopped.
    pub(super) all_stand: bool,
}

/// Why a scan failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ScanError {
    Memory,
    TooLarge,
    /// The system's error number.
    System(i32),
}

/// Scans all memory. `is_copy` says whether the process is a copy. `progress` is told how many bytes are scanned, and
/// of how many.
///
/// # Safety
/// The calling thread holds all locks of the crate, or is a copy of the thread that holds them. No other threads run,
/// except those that could not be stopped.
unsafe fn scan(input: &Input<'_>, is_copy: bool, progress: &mut dyn FnMut(u64, u64)) -> Result<Tables, ScanError> {
    let areas = memory::areas()?;
    let mut claims = memory::Claims::new();
    // SAFETY: the caller's promise.
    let index = unsafe { index::Index::build(&areas, &mut claims) }?;
    let mut tables = Tables::new();
    let reader = memory::Reader::new(&areas);
    // SAFETY: the caller's promise; the areas are those of the process.
    unsafe {
        roots::scan(input, &areas, &reader, &index, is_copy, &mut claims, &mut tables)?;
        edges::scan(&reader, &index, &mut tables, progress)?;
    }
    tables.take_nodes(index);
    Ok(tables)
}
