//! Flame graphs, with the feature `flamegraph`. The crate `inferno` draws them; its licence, CDDL-1.0, differs from
//! this crate's.

use std::io;
use std::path::Path;

use inferno::flamegraph::color::BasicPalette;
use inferno::flamegraph::{Options, Palette, from_lines};

use crate::trace::read::snapshot::Snapshot;
use crate::trace::read::text::Bytes;
use crate::trace::record::state::Busy;

impl Snapshot {
    /// The snapshot as a flame graph: an SVG in which each function is as wide as the bytes allocated in it or below.
    ///
    /// # Errors
    /// If the flame graph library fails, which is not expected.
    pub fn to_flame_graph(&self, title: &str) -> io::Result<String> {
        let _busy = Busy::enter();
        let mut collapsed = self.to_collapsed();
        if collapsed.is_empty() {
            collapsed.push_str("nothing 1\n");
        }
        let mut options = Options::default();
        options.title = title.to_owned();
        options.subtitle = Some(format!("{} in {} blocks", Bytes(self.bytes() as f64), self.blocks()));
        options.count_name = "bytes".to_owned();
        options.colors = Palette::Basic(BasicPalette::Mem);
        // The same function has the same colour in every graph.
        options.hash = true;
        let mut svg = Vec::new();
        from_lines(&mut options, collapsed.lines(), &mut svg)?;
        String::from_utf8(svg).map_err(io::Error::other)
    }

    /// Writes [`to_flame_graph`](Self::to_flame_graph) to a file.
    ///
    /// # Errors
    /// If the file can't be written.
    pub fn save_flame_graph(&self, path: impl AsRef<Path>, title: &str) -> io::Result<()> {
        let _busy = Busy::enter();
        std::fs::write(path, self.to_flame_graph(title)?)
    }
}
