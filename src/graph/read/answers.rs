//! Sums of a graph, single blocks, and the references of a block.

use core::fmt;

use super::paths::NotABlock;
use crate::graph::build::HeapGraph;
use crate::graph::found::{NOBODY, Root, RootKind};
use crate::trace::access::{Busy, Bytes, Frame, Traceback};

/// How a block is reached: from the program, only from foreign memory, or not at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reach {
    /// From statics, thread-locals, stacks or registers.
    Rooted,
    /// Only from foreign memory.
    Foreign,
    /// From nowhere: a leak.
    Unreachable,
}

/// Blocks and their bytes, by how they are reached.
///
/// Its `Display` is one line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Summary {
    /// Blocks that are reached from statics, thread-locals, stacks or registers.
    pub rooted_blocks: usize,
    /// Their bytes.
    pub rooted_bytes: usize,
    /// Blocks that only foreign memory reaches.
    pub foreign_blocks: usize,
    /// Their bytes.
    pub foreign_bytes: usize,
    /// Blocks that nothing reaches.
    pub unreachable_blocks: usize,
    /// Their bytes.
    pub unreachable_bytes: usize,
    /// References from blocks to blocks.
    pub references: usize,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = |blocks: usize, bytes: usize| format!("{} in {blocks} blocks", Bytes(bytes as f64));
        write!(
            f,
            "reachable: {}; only from foreign memory: {}; unreachable: {}",
            part(self.rooted_blocks, self.rooted_bytes),
            part(self.foreign_blocks, self.foreign_bytes),
            part(self.unreachable_blocks, self.unreachable_bytes)
        )
    }
}

/// A block of the graph.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Block {
    /// Bytes, as requested.
    pub bytes: usize,
    /// Where it was allocated; unknown for a block that is older than the tracer's session.
    pub traceback: Traceback,
    /// How it is reached.
    pub reach: Reach,
    /// Bytes that could be freed with it: its own, and those of all blocks that are reached only through it.
    pub retained_bytes: u64,
    hidden: usize,
}

impl Block {
    /// Its address.
    ///
    /// Inside it is kept inverted, so that the next graph does not take this value for a reference.
    pub fn address(&self) -> usize {
        !self.hidden
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ({}, retains {})",
            Site(&self.traceback),
            Bytes(self.bytes as f64),
            Bytes(self.retained_bytes as f64)
        )
    }
}

/// Where a reference from outside of the blocks is: a static, a thread-local, a stack or foreign memory.
///
/// Its `Display` is a phrase: `static my_crate::CACHE`, `stack of thread worker in my_crate::serve at src/x.rs:12`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Place {
    /// A static of a module.
    Static {
        /// Its name; empty without symbols.
        symbol: String,
        /// The file of the module; empty if the loader did not list it.
        module: String,
    },
    /// A thread-local.
    ThreadLocal {
        /// Its name; empty without symbols, and for the memory in which the C library keeps the thread's data.
        symbol: String,
        /// The name of the thread.
        thread: String,
    },
    /// The stack, or a register, of a thread.
    Stack {
        /// The function; `None` where the stack could not be walked.
        function: Option<Frame>,
        /// The name of the thread.
        thread: String,
    },
    /// Foreign memory.
    Foreign,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Static { symbol, module } if symbol.is_empty() => write!(f, "a static of {module}"),
            Self::Static { symbol, .. } => write!(f, "static {symbol}"),
            Self::ThreadLocal { symbol, thread } if symbol.is_empty() => {
                write!(f, "the C library's data of thread {thread}")
            }
            Self::ThreadLocal { symbol, thread } => write!(f, "thread-local {symbol} of thread {thread}"),
            Self::Stack { function: Some(frame), thread } => {
                write!(f, "stack of thread {thread} in {} at {frame}", frame.function())
            }
            Self::Stack { function: None, thread } => write!(f, "stack of thread {thread}"),
            Self::Foreign => write!(f, "foreign memory"),
        }
    }
}

/// One end of a reference: what refers to a block, or what a block refers to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Reference {
    /// A block, at this byte of it.
    Block(Block, usize),
    /// Memory outside of all blocks.
    Root(Place),
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Block(block, offset) => write!(f, "{block} at byte {offset}"),
            Self::Root(place) => write!(f, "{place}"),
        }
    }
}

/// The name of a block: the outermost library function that allocated it on behalf of the program, and the program's
/// line.
pub(in crate::graph) struct Site<'site>(pub(in crate::graph) &'site Traceback);

impl fmt::Display for Site<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cause = self.0.cause();
        let place = self.0.frames().iter().position(|frame| frame == cause).unwrap_or(0);
        let name = self.0.frames().get(place.saturating_sub(1)).unwrap_or(cause);
        write!(f, "{} at {cause}", name.function())
    }
}

impl HeapGraph {
    /// Blocks and bytes, by how they are reached.
    pub fn summary(&self) -> Summary {
        let mut sum = Summary { references: self.edges.len(), ..Summary::default() };
        for (node, reach) in self.nodes.iter().zip(&self.reach) {
            let (blocks, bytes) = match reach {
                Reach::Rooted => (&mut sum.rooted_blocks, &mut sum.rooted_bytes),
                Reach::Foreign => (&mut sum.foreign_blocks, &mut sum.foreign_bytes),
                Reach::Unreachable => (&mut sum.unreachable_blocks, &mut sum.unreachable_bytes),
            };
            *blocks += 1;
            *bytes += node.bytes;
        }
        sum
    }

    /// All blocks: first the small ones by address, then the large ones by address.
    ///
    /// A `.heapsnapshot` has them in the same order.
    pub fn blocks(&self) -> impl Iterator<Item = Block> + '_ {
        (0..self.nodes.len()).map(|number| self.block(number))
    }

    /// The block that an address is in; `None` if it is in none.
    pub fn block_of<T: ?Sized>(&self, address: *const T) -> Option<Block> {
        let _busy = Busy::enter();
        Some(self.block(self.number_of(address.cast::<u8>().addr())?))
    }

    /// What refers to the block that an address is in.
    ///
    /// # Errors
    /// If the address is in no block of the graph.
    #[doc(alias = "objgraph.show_backrefs")]
    #[doc(alias = "gc.get_referrers")]
    pub fn referrers<T: ?Sized>(&self, address: *const T) -> Result<Vec<Reference>, NotABlock> {
        let _busy = Busy::enter();
        let number = self.number_of(address.cast::<u8>().addr()).ok_or(NotABlock)?;
        let mut found = Vec::new();
        for (from, word) in self.referrers_of(number) {
            found.push(Reference::Block(self.block(from), word as usize * size_of::<usize>()));
        }
        for root in self.roots.iter().filter(|root| root.target as usize == number) {
            found.push(Reference::Root(self.place_of(root)));
        }
        Ok(found)
    }

    /// The references of the block that an address is in. Each offset is the place of the reference in this block.
    ///
    /// # Errors
    /// If the address is in no block of the graph.
    #[doc(alias = "gc.get_referents")]
    pub fn referents<T: ?Sized>(&self, address: *const T) -> Result<Vec<Reference>, NotABlock> {
        let _busy = Busy::enter();
        let number = self.number_of(address.cast::<u8>().addr()).ok_or(NotABlock)?;
        let edges = self.edges_of(number).iter();
        let reference =
            |target: u32, word: u32| Reference::Block(self.block(target as usize), word as usize * size_of::<usize>());
        Ok(edges.map(|edge| reference(edge.target, edge.word)).collect())
    }

    /// The numbers of the blocks that refer to a block, and the word by which each does.
    pub(in crate::graph) fn referrers_of(&self, number: usize) -> Vec<(usize, u32)> {
        let edges = |node: usize| self.edges_of(node).iter().map(move |edge| (node, edge));
        let all = (0..self.nodes.len()).flat_map(edges);
        all.filter(|(_, edge)| edge.target as usize == number).map(|(node, edge)| (node, edge.word)).collect()
    }

    pub(in crate::graph) fn block(&self, number: usize) -> Block {
        let node = self.nodes[number];
        let analysis = self.analysis();
        Block {
            bytes: node.bytes,
            traceback: self.sites[node.site as usize].clone(),
            reach: self.reach[number],
            retained_bytes: analysis.retained_bytes[analysis.first() + number],
            hidden: !node.address(),
        }
    }

    pub(in crate::graph) fn place_of(&self, root: &Root) -> Place {
        let module = |number: u32| self.modules.get(number as usize);
        match self.root_kind(root) {
            RootKind::Static => Place::Static {
                symbol: self.statics.of_static(&self.modules, root.owner, root.address),
                module: module(root.owner).map_or(String::new(), |module| module.path.display().to_string()),
            },
            RootKind::Thread => Place::ThreadLocal {
                symbol: if root.module == NOBODY {
                    String::new()
                } else {
                    self.statics.of_thread_local(&self.modules, root.module, root.offset)
                },
                thread: self.thread_name(root.owner),
            },
            RootKind::Stack => Place::Stack { function: self.function_of(root), thread: self.thread_name(root.owner) },
            RootKind::Foreign => Place::Foreign,
        }
    }

    pub(in crate::graph) fn thread_name(&self, number: u32) -> String {
        let Some(thread) = self.threads.get(number as usize) else { return String::new() };
        if thread.name.is_empty() { thread.number.to_string() } else { format!("{} ({})", thread.name, thread.number) }
    }

    /// The function whose part of the stack a root is in. If others were inlined into it, the innermost one that
    /// belongs to no library.
    fn function_of(&self, root: &Root) -> Option<Frame> {
        let frames = &self.threads.get(root.owner as usize)?.frames;
        let after = frames.partition_point(|(sp, _)| *sp <= root.address);
        // Below the first stack pointer are the saved registers: they belong to the first frame.
        let (_, functions) = frames.get(after.saturating_sub(1))?;
        functions.iter().find(|frame| !frame.is_library()).or(functions.first()).cloned()
    }
}
