//! What nothing refers to any more, by the call stacks that allocated it.

use core::fmt;
use core::ops::Deref;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use super::analysis::LeakRoot;
use super::answers::{Reach, Site, Summary};
use crate::graph::build::{HeapGraph, Node, UNTRACED_SITE};
use crate::trace::Filter;
use crate::trace::access::{self, Busy, Bytes, Frame, Traceback};

/// Blocks that refer to each other in a circle: the shortest one through the first of them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Cycle {
    /// Where each block of the circle was allocated, its bytes, and which byte of it refers to the next.
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

/// Leaks of one call stack: blocks that nothing refers to, or circles that nothing outside of them refers to.
///
/// Its `Display` has a few lines.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Leak {
    /// Where the blocks, or one of each circle, were allocated.
    pub traceback: Traceback,
    /// How many blocks, or circles.
    pub count: usize,
    /// One of the circles, if they are that.
    pub cycle: Option<Cycle>,
    /// Bytes of these blocks, or of all blocks of the circles.
    pub bytes: usize,
    /// Bytes that are leaked with them: theirs, and those of all that only they refer to.
    pub retained_bytes: u64,
    /// Blocks, likewise.
    pub retained_blocks: u64,
    hidden: Vec<usize>,
}

impl Leak {
    /// The addresses of the blocks, or of one of each circle. They are kept inverted inside.
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

/// Frames of a traceback that are shown.
const FRAMES_SHOWN: usize = 8;

/// The first frames of the program's own, in tracemalloc's manner.
struct OwnFrames<'traceback>(&'traceback Traceback);

impl fmt::Display for OwnFrames<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The C library's way to `main`, and the compiler's.
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

/// Leaks by [`HeapGraph::leaks`], what retains most first. Its `Display` has them one after the other, and a line of
/// sums.
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

    /// Those whose call stack passes the filters.
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
    /// What nothing refers to any more, by call stack; with the circles that keep themselves alive.
    ///
    /// Blocks that were allocated before the tracer was started are left out: [`summary`](Self::summary) counts them.
    #[doc(alias = "gc.garbage")]
    pub fn leaks(&self) -> Leaks {
        self.leaks_but(|_| false)
    }

    /// What was leaked of blocks that an older graph does not have.
    pub(in crate::graph) fn leaks_since(&self, old: &Self) -> Leaks {
        let _busy = Busy::enter();
        let known: HashSet<(usize, usize, &Traceback)> = old.nodes.iter().map(|node| old.key(node)).collect();
        self.leaks_but(|node| known.contains(&self.key(node)))
    }

    /// What tells a block from others: where it is (inverted), its bytes, and the call stack that allocated it.
    fn key(&self, node: &Node) -> (usize, usize, &Traceback) {
        (!node.address(), node.bytes, &self.sites[node.site as usize])
    }

    /// Leaks but those of which some block is left out.
    fn leaks_but(&self, is_left_out: impl Fn(&Node) -> bool) -> Leaks {
        let _busy = Busy::enter();
        let analysis = self.analysis();
        // By the call stack, and those of all members of a circle.
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
        // The shortest one shows the circle best.
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
        // From where a member was reached first, and by which word.
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

    /// Blocks that only foreign memory refers to, by call stack: blocks and bytes. What libraries in C keep of a Rust
    /// program is here, and what a leak looks like to which such memory refers by chance.
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
