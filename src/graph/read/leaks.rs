//! Leaks: the blocks that nothing refers to any more, by the call stacks that allocated them.

use core::fmt;
use core::ops::Deref;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use super::analysis::LeakRoot;
use super::answers::{Reach, Site, Summary};
use crate::graph::build::{HeapGraph, Node, UNTRACED_SITE};
use crate::trace::Filter;
use crate::trace::access::{self, Busy, Bytes, Frame, Traceback};

/// Blocks that refer to each other in a circle, and so keep each other alive: the shortest circle through the first
/// one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Cycle {
    /// For each block of the circle: where it was allocated, its bytes, and which byte of it refers to the next block.
    pub steps: Vec<(Traceback, usize, usize)>,
}

impl fmt::Display for Cycle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (traceback, bytes, offset)) in self.steps.iter().enumerate() {
            let arrow = if number == 0 { "cycle:" } else { "    ->" };
            writeln!(f, "    {arrow} {} ({}) at byte {offset}", Site(traceback), Bytes(*bytes as f64))?;
        }
        writeln!(f, "    -> the first")
    }
}

/// The leaks of one call stack: blocks that nothing refers to, or circles that nothing outside of them refers to.
///
/// Its `Display` has several lines.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Leak {
    /// Where the blocks, or one block of each circle, were allocated.
    pub traceback: Traceback,
    /// The number of blocks, or of circles.
    pub count: usize,
    /// One of the circles, if the leaks are circles.
    pub cycle: Option<Cycle>,
    /// Bytes of these blocks, or of all blocks of the circles.
    pub bytes: usize,
    /// Bytes that are leaked with them: their own, and those of all blocks that are reached only through them.
    pub retained_bytes: u64,
    /// The number of blocks that these bytes are in.
    pub retained_blocks: u64,
    hidden: Vec<usize>,
}

impl Leak {
    /// The addresses of the blocks, or of one block of each circle.
    ///
    /// Inside they are kept inverted, so that the next graph does not take them for references.
    pub fn addresses(&self) -> impl Iterator<Item = usize> + '_ {
        self.hidden.iter().map(|hidden| !hidden)
    }
}

impl fmt::Display for Leak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match (&self.cycle, self.count) {
            (None, 1) => "block",
            (None, _) => "blocks",
            (Some(_), 1) => "cycle",
            (Some(_), _) => "cycles",
        };
        writeln!(
            f,
            "{} in {} blocks, leaked with {} {what} of {}",
            Bytes(self.retained_bytes as f64),
            self.retained_blocks,
            self.count,
            Site(&self.traceback)
        )?;
        if let Some(cycle) = &self.cycle {
            write!(f, "{cycle}")?;
        }
        write!(f, "{}", OwnFrames(&self.traceback))
    }
}

/// The most frames of a traceback that are shown.
const FRAMES_SHOWN: usize = 8;

/// The innermost frames that are the program's own, written as tracemalloc does.
struct OwnFrames<'traceback>(&'traceback Traceback);

impl fmt::Display for OwnFrames<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The functions of the C library and the compiler that lead to `main`, or to a thread's function.
        let is_start = |frame: &Frame| {
            ["_start", "start_thread", "clone", "clone3"].contains(&frame.function())
                || frame.function().starts_with("__libc_start")
                || (frame.function() == "main" && frame.line() == 0)
        };
        let own = self.0.frames().iter().filter(|frame| !frame.is_library() && !is_start(frame));
        for frame in own.take(FRAMES_SHOWN) {
            writeln!(f, "  File \"{}\", line {}, in {}", frame.file(), frame.line(), frame.function())?;
        }
        Ok(())
    }
}

/// Leaks by [`HeapGraph::leaks`]; the one that retains most comes first.
///
/// Its `Display` has them one after the other, and a line of sums.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaks {
    leaks: Vec<Leak>,
    summary: Summary,
}

impl Leaks {
    /// The first `count` leaks.
    #[must_use]
    pub fn top(&self, count: usize) -> Self {
        Self { leaks: self.leaks.iter().take(count).cloned().collect(), summary: self.summary }
    }

    /// The leaks whose call stack passes the filters.
    #[must_use]
    pub fn filter(&self, filters: &[Filter]) -> Self {
        let _busy = Busy::enter();
        let passing = self.leaks.iter().filter(|leak| access::passes(filters, &leak.traceback));
        Self { leaks: passing.cloned().collect(), summary: self.summary }
    }
}

impl Deref for Leaks {
    type Target = [Leak];

    fn deref(&self) -> &[Leak] {
        &self.leaks
    }
}

impl fmt::Display for Leaks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for leak in &self.leaks {
            writeln!(f, "{leak}")?;
        }
        writeln!(f, "{}", self.summary)
    }
}

impl HeapGraph {
    /// The leaks: blocks that nothing refers to any more, and circles to which nothing outside refers, by call stack.
    ///
    /// Blocks that were allocated before the tracer was started are left out: [`summary`](Self::summary) counts them.
    #[doc(alias = "gc.garbage")]
    pub fn leaks(&self) -> Leaks {
        self.leaks_but(|_| false)
    }

    /// The leaks of blocks that an older graph does not have.
    pub(in crate::graph) fn leaks_since(&self, old: &Self) -> Leaks {
        let _busy = Busy::enter();
        let known: HashSet<(usize, usize, &Traceback)> = old.nodes.iter().map(|node| old.key(node)).collect();
        self.leaks_but(|node| known.contains(&self.key(node)))
    }

    /// What tells a block from others: its address (inverted), its bytes, and the call stack that allocated it.
    fn key(&self, node: &Node) -> (usize, usize, &Traceback) {
        (!node.address(), node.bytes, &self.sites[node.site as usize])
    }

    /// All leaks, except those with a block that `is_left_out` selects.
    fn leaks_but(&self, is_left_out: impl Fn(&Node) -> bool) -> Leaks {
        let _busy = Busy::enter();
        let analysis = self.analysis();
        // By the call stack; circles also by the call stacks of all their members.
        let mut grouped: BTreeMap<(u32, Vec<u32>), Vec<&LeakRoot>> = BTreeMap::new();
        for root in &analysis.leak_roots {
            let site = self.nodes[root.node as usize].site;
            if site == UNTRACED_SITE || root.members.iter().any(|&node| is_left_out(&self.nodes[node as usize])) {
                continue;
            }
            let mut sites = Vec::new();
            if root.is_cycle {
                sites.extend(root.members.iter().map(|&member| self.nodes[member as usize].site));
                sites.sort_unstable();
                sites.dedup();
            }
            grouped.entry((site, sites)).or_default().push(root);
        }
        let mut leaks: Vec<Leak> = grouped.into_iter().map(|((site, _), roots)| self.leak(site, &roots)).collect();
        leaks.sort_by(|one, other| (other.retained_bytes, &one.traceback).cmp(&(one.retained_bytes, &other.traceback)));
        Leaks { leaks, summary: self.summary() }
    }

    fn leak(&self, site: u32, roots: &[&LeakRoot]) -> Leak {
        let analysis = self.analysis();
        let sum = |of: &[u64]| roots.iter().map(|root| of[analysis.first() + root.node as usize]).sum();
        let members = roots.iter().flat_map(|root| &root.members);
        // The circle with the fewest members is the clearest example.
        let least = roots.iter().filter(|root| root.is_cycle).min_by_key(|root| root.members.len());
        Leak {
            traceback: self.sites[site as usize].clone(),
            count: roots.len(),
            cycle: least.map(|root| self.cycle(root)),
            bytes: members.map(|&member| self.nodes[member as usize].bytes).sum(),
            retained_bytes: sum(&analysis.retained_bytes),
            retained_blocks: sum(&analysis.retained_blocks),
            hidden: roots.iter().map(|root| !self.nodes[root.node as usize].address()).collect(),
        }
    }

    /// The shortest circle through the block that stands for a component.
    fn cycle(&self, root: &LeakRoot) -> Cycle {
        let start = root.node;
        // For each member: the block from which it was reached first, and the word that refers to it.
        let mut from: HashMap<u32, (u32, u32)> = HashMap::new();
        let mut queue = VecDeque::from([start]);
        'search: while let Some(node) = queue.pop_front() {
            for edge in self.edges_of(node as usize) {
                let is_member = root.members.binary_search(&edge.target).is_ok();
                if is_member && !from.contains_key(&edge.target) {
                    from.insert(edge.target, (node, edge.word));
                    if edge.target == start {
                        break 'search;
                    }
                    queue.push_back(edge.target);
                }
            }
        }
        let mut steps = Vec::new();
        let mut node = start;
        while let Some(&(before, word)) = from.get(&node) {
            let found = self.nodes[before as usize];
            let offset = word as usize * size_of::<usize>();
            steps.push((self.sites[found.site as usize].clone(), found.bytes, offset));
            node = before;
            if node == start {
                break;
            }
        }
        steps.reverse();
        Cycle { steps }
    }

    /// The blocks that are reached only from foreign memory: by call stack, their number and bytes.
    ///
    /// Blocks that C libraries keep for a Rust program are among them. So are leaks to which a word of foreign memory
    /// seems to refer by chance.
    pub fn only_from_foreign(&self) -> Vec<(Traceback, usize, usize)> {
        let _busy = Busy::enter();
        let mut sums: HashMap<u32, (usize, usize)> = HashMap::new();
        for (node, _) in self.nodes.iter().zip(&self.reach).filter(|(_, reach)| **reach == Reach::Foreign) {
            let sum = sums.entry(node.site).or_default();
            sum.0 += 1;
            sum.1 += node.bytes;
        }
        let mut found: Vec<_> = sums
            .into_iter()
            .map(|(site, (blocks, bytes))| (self.sites[site as usize].clone(), blocks, bytes))
            .collect();
        found.sort_by(|one, other| (other.2, &one.0).cmp(&(one.2, &other.0)));
        found
    }
}
