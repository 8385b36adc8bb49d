//! What a scan finds, as plain numbers.

use std::path::PathBuf;

/// The stack of blocks that the tracer does not know.
pub(super) const UNTRACED: u32 = u32::MAX;

/// The mark of a reference from a vacant bucket.
pub(super) const VACANT: u32 = 1 << 31;

/// Stands for no module or no thread in particular.
pub(super) const NOBODY: u32 = u32::MAX;

/// A block of the program.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct RawNode {
    /// Inverted, once the scan is over.
    pub(super) address: usize,
    /// The requested size.
    pub(super) bytes: usize,
    /// The tracer's number of the stack.
    pub(super) stack: u32,
    /// How many of its words are scanned.
    pub(super) words: u32,
}

/// A reference from a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Edge {
    /// The number of the block that is referred to.
    pub(super) target: u32,
    /// Which word of the block refers; with [`VACANT`], one of a hash table's vacant buckets.
    pub(super) word: u32,
}

/// What kind of memory a root is in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub(super) enum RootKind {
    /// A module's static; the owner is the module.
    Static,
    /// A thread's thread-local, or its own block; the owner is the thread.
    Thread,
    /// A thread's stack or registers; the owner is the thread.
    Stack,
    /// Memory that is none of these.
    Foreign,
}

impl RootKind {
    pub(super) const fn of_number(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::Static),
            1 => Some(Self::Thread),
            2 => Some(Self::Stack),
            3 => Some(Self::Foreign),
            _ => None,
        }
    }
}

/// A reference from outside of the blocks.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Root {
    /// The address of the word that refers.
    pub(super) address: usize,
    pub(super) target: u32,
    /// A [`RootKind`].
    pub(super) kind: u32,
    /// The number of a module or thread; see [`RootKind`].
    pub(super) owner: u32,
    /// Of a thread-local: its module's number, and its place in the module's thread-locals.
    pub(super) module: u32,
    pub(super) offset: u64,
}

/// A frame of a thread's stack: from `sp` on, the stack belongs to this function and its callers.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct FrameNote {
    pub(super) sp: usize,
    /// A return address with its module.
    pub(super) word: usize,
    pub(super) thread: usize,
}

/// All that a scan found, in memory that the tracer counts as its own.
#[derive(Default)]
pub(super) struct Received {
    pub(super) nodes: Vec<RawNode>,
    /// Where the references of each node end.
    pub(super) ends: Vec<u32>,
    pub(super) edges: Vec<Edge>,
    pub(super) roots: Vec<Root>,
    pub(super) frames: Vec<FrameNote>,
}

impl Received {
    /// Whether each number is one of the tables', and blocks stand in order: what the copy of a process sends, whose
    /// memory may be damaged.
    pub(super) fn is_sound(&self) -> bool {
        let blocks = self.nodes.len();
        let is_block = |target: u32| (target as usize) < blocks;
        // Small ones first, then large ones: each part by address. Addresses are inverted.
        let descents = self.nodes.windows(2).filter(|pair| !pair[0].address >= !pair[1].address).count();
        let bytes = self.nodes.iter().try_fold(0_usize, |sum, node| {
            (!node.address).checked_add(node.bytes)?;
            sum.checked_add(node.bytes)
        });
        descents <= 1
            && bytes.is_some()
            && self.ends.len() == blocks
            && self.ends.is_sorted()
            && self.ends.last().map_or(0, |&end| end as usize) == self.edges.len()
            && self.edges.iter().all(|edge| is_block(edge.target))
            && self.roots.iter().all(|root| is_block(root.target))
    }
}

/// A loaded module.
#[derive(Debug, Clone)]
pub(super) struct Module {
    pub(super) path: PathBuf,
    /// The load bias: an address in memory less its address in the file.
    pub(super) base: usize,
    /// The start and the end of each writable segment.
    pub(super) writable: Vec<(usize, usize)>,
    /// Its number in each thread's table of thread-locals; 0 if it has none.
    pub(super) tls_number: usize,
    pub(super) tls_bytes: usize,
}
