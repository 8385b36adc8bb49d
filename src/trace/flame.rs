//! Collapsed stacks, and the flame graph made of them.

use std::io;
use std::path::Path;

use inferno::flamegraph::color::BasicPalette;
use inferno::flamegraph::{Options, Palette, from_lines};

use super::hook::Busy;
use super::sampling::weight;
use super::snapshot::Snapshot;
use super::text::Bytes;
use super::traceback::Frame;

/// The frames from the outermost on, without those before the program's `main` or the thread's function.
fn from_start(frames: &[Frame]) -> impl Iterator<Item = &Frame> {
    // Put there by the standard library for this purpose.
    let starts = |frame: &Frame| frame.function().contains("::__rust_begin_short_backtrace");
    let start = frames.iter().position(starts).filter(|&start| start > 0).unwrap_or(frames.len());
    frames[..start].iter().rev()
}

impl Snapshot {
    /// The snapshot as collapsed stacks: a line each, the functions from the outermost to the innermost, separated by `;`,
    /// then a space and the bytes. What flame graph tools read. Without the runtime's calls that start `main` or a thread.
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

    /// The snapshot as a flame graph: an SVG in which each function is as wide as what was allocated in it or below.
    ///
    /// # Errors
    /// What the flame graph library says; not expected.
    pub fn to_flame_graph(&self, title: &str) -> io::Result<String> {
        let _busy = Busy::enter();
        let mut collapsed = self.to_collapsed();
        if collapsed.is_empty() {
            collapsed.push_str("nothing 1\n");
        }
        let mut options = Options::default();
        options.title = title.to_owned();
        options.subtitle = Some(format!("{} in {} blocks", Bytes(self.size() as f64), self.count()));
        options.count_name = "bytes".to_owned();
        options.colors = Palette::Basic(BasicPalette::Mem);
        // The same function has the same colour in every graph.
        options.hash = true;
        let mut svg = Vec::new();
        from_lines(&mut options, collapsed.lines(), &mut svg)?;
        String::from_utf8(svg).map_err(io::Error::other)
    }

    /// Writes [`to_collapsed`](Self::to_collapsed) to a file.
    ///
    /// # Errors
    /// What the file system says.
    pub fn save_collapsed(&self, path: impl AsRef<Path>) -> io::Result<()> {
        let _busy = Busy::enter();
        std::fs::write(path, self.to_collapsed())
    }

    /// Writes [`to_flame_graph`](Self::to_flame_graph) to a file.
    ///
    /// # Errors
    /// What the file system says.
    pub fn save_flame_graph(&self, path: impl AsRef<Path>, title: &str) -> io::Result<()> {
        let _busy = Busy::enter();
        std::fs::write(path, self.to_flame_graph(title)?)
    }
}
