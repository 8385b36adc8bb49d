//! The bytes of each function's, line's, file's or crate's blocks: their own, and those that they retain.

use core::fmt;
use core::ops::Deref;
use std::collections::HashMap;

use super::dominators::NONE;
use crate::graph::build::HeapGraph;
use crate::trace::access::{Busy, Bytes, Traceback};

/// What [`HeapGraph::retained`] sums by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum By {
    /// The source file that a block is charged to ([`Traceback::cause`](crate::trace::Traceback::cause)).
    File,
    /// Its file and line.
    Line,
    /// Its function.
    Function,
    /// Its crate.
    Crate,
}

impl By {
    fn name(self, traceback: &Traceback) -> String {
        let cause = traceback.cause();
        match self {
            Self::File => cause.file().to_owned(),
            Self::Line => cause.to_string(),
            Self::Function => cause.function().to_owned(),
            Self::Crate => cause.crate_name().to_owned(),
        }
    }
}

/// The bytes that the blocks of one file, line, function or crate hold and retain.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct RetainedRow {
    /// The file, line, function or crate.
    pub name: String,
    /// Its blocks.
    pub blocks: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes that could be freed with these blocks: their own, and those of all blocks that are reached only through
    /// one of them.
    pub retained_bytes: u64,
}

impl fmt::Display for RetainedRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (retained, own) = (Bytes(self.retained_bytes as f64), Bytes(self.bytes as f64));
        write!(f, "{}: retains {retained}, holds {own} in {} blocks", self.name, self.blocks)
    }
}

/// Rows by [`HeapGraph::retained`]; the one that retains most comes first.
///
/// Its `Display` has one line per row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retained {
    rows: Vec<RetainedRow>,
}

impl Retained {
    /// The first `count` rows.
    #[must_use]
    pub fn top(&self, count: usize) -> Self {
        Self { rows: self.rows.iter().take(count).cloned().collect() }
    }
}

impl Deref for Retained {
    type Target = [RetainedRow];

    fn deref(&self) -> &[RetainedRow] {
        &self.rows
    }
}

impl fmt::Display for Retained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.rows.iter().try_for_each(|row| writeln!(f, "{row}"))
    }
}

impl HeapGraph {
    /// The bytes that the blocks of each file, line, function or crate hold, and those that they retain.
    ///
    /// A block retains what could be freed with it: itself, and all blocks that are reached only through it. (The
    /// dominator tree tells which these are.) The retained bytes of two rows may overlap: a cache that a server holds
    /// is retained by both. Blocks that are reached only from foreign memory, or not at all, count as well.
    pub fn retained(&self, by: By) -> Retained {
        let _busy = Busy::enter();
        let mut rows: Vec<RetainedRow> = Vec::new();
        let mut numbers: HashMap<String, usize> = HashMap::new();
        let row_of_site: Vec<usize> = self
            .sites
            .iter()
            .map(|site| {
                let name = by.name(site);
                *numbers.entry(name.clone()).or_insert_with(|| {
                    rows.push(RetainedRow { name, blocks: 0, bytes: 0, retained_bytes: 0 });
                    rows.len() - 1
                })
            })
            .collect();
        let analysis = self.analysis();
        let first = analysis.first();
        for node in &self.nodes {
            let row = &mut rows[row_of_site[node.site as usize]];
            row.blocks += 1;
            row.bytes += node.bytes as u64;
        }
        for (node, row) in self.topmost(&row_of_site, rows.len()) {
            rows[row].retained_bytes += analysis.retained_bytes[first + node];
        }
        rows.retain(|row| row.blocks > 0);
        rows.sort_by(|one, other| (other.retained_bytes, &one.name).cmp(&(one.retained_bytes, &other.name)));
        Retained { rows }
    }

    /// The blocks that no block of the same row dominates, with their rows.
    fn topmost(&self, row_of_site: &[usize], rows: usize) -> Vec<(usize, usize)> {
        let analysis = self.analysis();
        let first = analysis.first();
        let children = children(&analysis.tree.parent);
        let mut above = vec![0_u32; rows];
        let mut found = Vec::new();
        // A node, and whether the search is leaving it.
        let mut path: Vec<(u32, bool)> = vec![(0, false)];
        while let Some((node, leaves)) = path.pop() {
            let block = (node as usize).checked_sub(first);
            let row = block.map(|block| row_of_site[self.nodes[block].site as usize]);
            if leaves {
                if let Some(row) = row {
                    above[row] -= 1;
                }
                continue;
            }
            if let (Some(block), Some(row)) = (block, row) {
                if above[row] == 0 {
                    found.push((block, row));
                }
                above[row] += 1;
            }
            path.push((node, true));
            path.extend(children.of(node as usize).iter().map(|&child| (child, false)));
        }
        found
    }
}

/// The children of each node of a tree.
fn children(parent: &[u32]) -> super::dominators::Successors {
    let mut starts = vec![0_u32; parent.len() + 1];
    for &above in parent.iter().filter(|&&above| above != NONE) {
        starts[above as usize + 1] += 1;
    }
    for index in 0..parent.len() {
        starts[index + 1] += starts[index];
    }
    let mut place = starts.clone();
    let mut targets = vec![0; starts[parent.len()] as usize];
    for (node, &above) in parent.iter().enumerate().filter(|(_, above)| **above != NONE) {
        targets[place[above as usize] as usize] = node as u32;
        place[above as usize] += 1;
    }
    starts.remove(0);
    super::dominators::Successors { ends: starts, targets }
}
