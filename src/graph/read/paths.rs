//! Shortest paths from roots to blocks.

use core::fmt;
use std::collections::HashSet;

use super::answers::{Block, Place};
use super::reached::Via;
use crate::graph::build::HeapGraph;
use crate::trace::Filter;
use crate::trace::access::{self, Busy};

/// The address is in no block of the graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NotABlock;

impl fmt::Display for NotABlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the address is in no block of the graph")
    }
}

impl core::error::Error for NotABlock {}

/// A block on a [`Path`], and which byte of it refers to the next block.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Step {
    /// The block.
    pub block: Block,
    /// The byte of it that refers to the next block; 0 for the last one.
    pub offset: usize,
}

/// A shortest path of references to a block.
///
/// Its `Display` has one line for the place where it begins, and one for each block.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Path {
    /// Where it begins; `None` if nothing reaches the block.
    pub place: Option<Place>,
    /// The blocks in order; the last is the one that was asked for.
    pub steps: Vec<Step>,
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => writeln!(f, "{place}")?,
            None => writeln!(f, "nothing")?,
        }
        for (number, step) in self.steps.iter().enumerate() {
            write!(f, "  -> {}", step.block)?;
            if number + 1 < self.steps.len() {
                write!(f, " at byte {}", step.offset)?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// Paths by [`HeapGraph::paths_to`].
///
/// Its `Display` has them one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Paths {
    /// The paths, the shortest first.
    pub paths: Vec<Path>,
    /// The number of blocks that passed the filters.
    pub blocks: usize,
}

impl fmt::Display for Paths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.paths.iter().try_for_each(|path| write!(f, "{path}"))
    }
}

impl HeapGraph {
    /// A shortest path from a static, thread-local, stack or foreign memory to the block that an address is in.
    ///
    /// # Errors
    /// If the address is in no block of the graph.
    #[doc(alias = "objgraph.find_backref_chain")]
    pub fn path_to<T: ?Sized>(&self, address: *const T) -> Result<Path, NotABlock> {
        let _busy = Busy::enter();
        let number = self.number_of(address.cast::<u8>().addr()).ok_or(NotABlock)?;
        Ok(self.path(number))
    }

    /// Shortest paths to the blocks whose call stack passes the filters.
    ///
    /// There are at most `limit` paths. Of the paths that go through blocks of the same call stacks, there is one.
    pub fn paths_to(&self, filters: &[Filter], limit: usize) -> Paths {
        let _busy = Busy::enter();
        let passes: Vec<bool> = self.sites.iter().map(|site| access::passes(filters, site)).collect();
        let numbers: Vec<usize> =
            (0..self.nodes.len()).filter(|&node| passes[self.nodes[node].site as usize]).collect();
        let mut seen = HashSet::new();
        let mut chains: Vec<Vec<(usize, u32)>> = Vec::new();
        for &number in &numbers {
            let chain = self.chain(number);
            let sites: Vec<u32> = chain.iter().map(|&(node, _)| self.nodes[node].site).collect();
            if seen.insert(sites) {
                chains.push(chain);
            }
        }
        chains.sort_by_key(Vec::len);
        let paths = chains.into_iter().take(limit).map(|chain| self.path_of(&chain)).collect();
        Paths { paths, blocks: numbers.len() }
    }

    pub(in crate::graph) fn path(&self, number: usize) -> Path {
        self.path_of(&self.chain(number))
    }

    /// The blocks of a path from the root on, and the word by which each refers to the next.
    fn chain(&self, number: usize) -> Vec<(usize, u32)> {
        let mut chain = vec![(number, 0)];
        let mut node = number;
        while let Via::Block(from, word) = self.via[node] {
            node = from as usize;
            chain.push((node, word));
        }
        chain.reverse();
        chain
    }

    fn path_of(&self, chain: &[(usize, u32)]) -> Path {
        let place = chain.first().and_then(|&(first, _)| match self.via[first] {
            Via::Root(root) => Some(self.place_of(&self.roots[root as usize])),
            _ => None,
        });
        let step =
            |&(node, word): &(usize, u32)| Step { block: self.block(node), offset: word as usize * size_of::<usize>() };
        Path { place, steps: chain.iter().map(step).collect() }
    }
}
