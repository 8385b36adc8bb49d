//! Collapsed stacks, which flame graph tools read.

use std::io;
use std::path::Path;

use crate::trace::names::traceback::Frame;
use crate::trace::read::snapshot::Snapshot;
use crate::trace::record::sampling::weight;
use crate::trace::record::state::Busy;

/// The frames from the outermost on, without those before the program's `main` or the thread's function.
pub(in crate::trace) fn from_start(frames: &[Frame]) -> impl Iterator<Item = &Frame> {
    // The standard library puts this function on the stack to mark the start.
    let starts = |frame: &Frame| frame.function().contains("::__rust_begin_short_backtrace");
    let start = frames.iter().position(starts).filter(|&start| start > 0).unwrap_or(frames.len());
    frames[..start].iter().rev()
}

impl Snapshot {
    /// The snapshot as collapsed stacks, which flame graph tools read.
    ///
    /// Each stack is a line: the functions from the outermost to the innermost, separated by `;`, then a space and the
    /// bytes. The runtime's calls that start `main` or a thread are left out.
    pub fn to_collapsed(&self) -> String {
        let _busy = Busy::enter();
        let mut sums: Vec<f64> = vec![0.0; self.stacks.len()];
        for trace in &self.traces {
            sums[trace.stack] += trace.count as f64 * weight(trace.bytes, self.interval).count * trace.bytes as f64;
        }
        let mut lines: Vec<String> = self
            .stacks
            .iter()
            .zip(sums)
            .filter(|(_, bytes)| *bytes > 0.0)
            .map(|(stack, bytes)| {
                // `[u8; 4]` is a type's name, too.
                let names = from_start(stack.traceback.frames()).map(|frame| frame.function().replace(';', ","));
                format!("{} {bytes:.0}\n", names.collect::<Vec<_>>().join(";"))
            })
            .collect();
        lines.sort_unstable();
        lines.concat()
    }

    /// Writes [`to_collapsed`](Self::to_collapsed) to a file.
    ///
    /// # Errors
    /// If the file can't be written.
    pub fn save_collapsed(&self, path: impl AsRef<Path>) -> io::Result<()> {
        let _busy = Busy::enter();
        std::fs::write(path, self.to_collapsed())
    }
}
