//! What a scan finds, as it grows.

use super::index::Index;
use crate::graph::found::{Edge, FrameNote, RawNode, Root};
use crate::trace::access::Mapped;

/// All that a scan finds.
pub(super) struct Tables {
    pub(super) nodes: Mapped<RawNode>,
    /// Where the references of each node end.
    pub(super) ends: Mapped<u32>,
    pub(super) edges: Mapped<Edge>,
    pub(super) roots: Mapped<Root>,
    pub(super) frames: Mapped<FrameNote>,
}

impl Tables {
    pub(super) const fn new() -> Self {
        Self {
            nodes: Mapped::new(),
            ends: Mapped::new(),
            edges: Mapped::new(),
            roots: Mapped::new(),
            frames: Mapped::new(),
        }
    }

    /// Takes the blocks, and inverts their addresses in place: so the next scan does not take them for references.
    pub(super) fn take_nodes(&mut self, index: Index) {
        self.nodes = index.nodes;
        for node in self.nodes.iter_mut() {
            node.address = !node.address;
        }
    }
}
