//! The graph with one root, and its dominator tree: the base of all answers about retained bytes.
//!
//! A block *dominates* another if every path from the root to that other block goes through it. So if the dominating
//! block were freed, all blocks that it dominates could be freed: it retains them.
//!
//! Below the root are *groups*: the statics of each module, each thread's stack and thread-locals, foreign memory, and
//! nobody. A group refers to the blocks to which its memory refers. Foreign memory refers only to blocks that nothing
//! better reaches. The group *nobody* stands in for references to unreachable blocks. These blocks form components. If
//! no other component refers to a component, the group refers to one block of it. A reference to a block that is
//! reached in a better way does not count here: that block would live without it.

use super::answers::Reach;
use super::components::Components;
use super::dominators::{Dominators, NONE, Successors};
use crate::graph::build::HeapGraph;
use crate::graph::found::RootKind;
use crate::trace::access;

/// What refers to blocks from outside.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(in crate::graph) enum Group {
    /// The memory of a kind that belongs to a module or thread.
    Roots(RootKind, u32),
    /// Nobody.
    Nobody,
}

/// A component of unreachable blocks to which no block outside of it refers.
pub(in crate::graph) struct LeakRoot {
    /// The block that stands for all of them.
    pub(in crate::graph) node: u32,
    /// All of them, by number.
    pub(in crate::graph) members: Vec<u32>,
    /// Whether they refer to each other in a circle, or the only one refers to itself.
    pub(in crate::graph) is_cycle: bool,
}

/// The graph's dominator tree and sums over it. The root is node 0, then come the groups, then the blocks.
pub(in crate::graph) struct Analysis {
    pub(in crate::graph) groups: Vec<Group>,
    pub(in crate::graph) tree: Dominators,
    /// Bytes that each node retains, itself included.
    pub(in crate::graph) retained_bytes: Vec<u64>,
    /// Blocks, likewise.
    pub(in crate::graph) retained_blocks: Vec<u64>,
    pub(in crate::graph) leak_roots: Vec<LeakRoot>,
}

impl Analysis {
    pub(in crate::graph) fn of(graph: &HeapGraph) -> Self {
        let leak_roots = leak_roots(graph);
        let (groups, rooted) = rooted(graph, &leak_roots);
        let tree = Dominators::of(&rooted);
        let first = groups.len() + 1;
        let own = |node: usize| node.checked_sub(first).map_or(0, |block| graph.nodes[block].bytes as u64);
        let retained_bytes = tree.sums(own);
        let retained_blocks = tree.sums(|node| u64::from(node >= first));
        Self { groups, tree, retained_bytes, retained_blocks, leak_roots }
    }

    /// The node of the first block.
    pub(in crate::graph) fn first(&self) -> usize {
        self.groups.len() + 1
    }
}

impl HeapGraph {
    pub(in crate::graph) fn analysis(&self) -> &Analysis {
        self.analysis.get_or_init(|| Analysis::of(self))
    }

    /// Whether a reference counts for retained bytes: not if its target is reached in a better way than its source.
    pub(in crate::graph) fn counts(&self, from: usize, to: usize) -> bool {
        self.reach[from] == self.reach[to]
    }
}

/// The graph with one root.
fn rooted(graph: &HeapGraph, leak_roots: &[LeakRoot]) -> (Vec<Group>, Successors) {
    let mut groups = Vec::new();
    let mut targets: Vec<Vec<u32>> = Vec::new();
    // Sorted by kind; the roots of one group follow each other.
    for root in &graph.roots {
        let group = Group::Roots(graph.root_kind(root), root.owner);
        let best = if root.kind == RootKind::Foreign as u32 { Reach::Foreign } else { Reach::Rooted };
        if graph.reach[root.target as usize] != best {
            continue;
        }
        if groups.last() != Some(&group) {
            groups.push(group);
            targets.push(Vec::new());
        }
        if let Some(targets) = targets.last_mut() {
            targets.push(root.target);
        }
    }
    if !leak_roots.is_empty() {
        groups.push(Group::Nobody);
        targets.push(leak_roots.iter().map(|root| root.node).collect());
    }
    let first = groups.len() as u32 + 1;
    let mut rooted = Successors::default();
    rooted.targets.extend(1..first);
    rooted.end_node();
    for targets in targets {
        rooted.targets.extend(targets.into_iter().map(|target| target + first));
        rooted.end_node();
    }
    for node in 0..graph.nodes.len() {
        let edges = graph.edges_of(node).iter().filter(|edge| graph.counts(node, edge.target as usize));
        rooted.targets.extend(edges.map(|edge| edge.target + first));
        rooted.end_node();
    }
    (groups, rooted)
}

/// The components of the unreachable blocks to which no other such component refers.
fn leak_roots(graph: &HeapGraph) -> Vec<LeakRoot> {
    let mut local = vec![NONE; graph.nodes.len()];
    let mut lost = Vec::new();
    for (node, _) in graph.reach.iter().enumerate().filter(|(_, reach)| **reach == Reach::Unreachable) {
        local[node] = lost.len() as u32;
        lost.push(node as u32);
    }
    let mut among = Successors::default();
    for &node in &lost {
        let targets = graph.edges_of(node as usize).iter().map(|edge| local[edge.target as usize]);
        among.targets.extend(targets.filter(|&target| target != NONE));
        among.end_node();
    }
    let components = Components::of(&among);
    let mut is_source = vec![true; components.count];
    let mut refers_to_itself = vec![false; lost.len()];
    for (node, to_itself) in refers_to_itself.iter_mut().enumerate() {
        for &target in among.of(node) {
            let (from, to) = (components.of[node], components.of[target as usize]);
            if from != to {
                is_source[to as usize] = false;
            }
            *to_itself |= target as usize == node;
        }
    }
    let mut members: Vec<Vec<u32>> = vec![Vec::new(); components.count];
    for (node, &component) in components.of.iter().enumerate() {
        if is_source[component as usize] {
            members[component as usize].push(lost[node]);
        }
    }
    let counts_references: Vec<bool> = graph.sites.iter().map(access::counts_references).collect();
    let mut roots: Vec<LeakRoot> = members
        .into_iter()
        .filter(|members| !members.is_empty())
        .map(|members| {
            // The same block stands for every circle of the same kind: an `Rc` or `Arc`, since no circle is without
            // one.
            let rank = |node: u32| {
                let site = graph.nodes[node as usize].site;
                (!counts_references[site as usize], site, node)
            };
            let node = members.iter().copied().min_by_key(|&node| rank(node));
            let is_cycle = members.len() > 1 || refers_to_itself[local[members[0] as usize] as usize];
            LeakRoot { node: node.unwrap_or(NONE), members, is_cycle }
        })
        .collect();
    roots.sort_by_key(|root| root.node);
    roots
}
