//! Dominators: the nodes that are on every path from the root to a node.
//!
//! The algorithm is semi-NCA (Georgiadis, "Linear-Time Algorithms for Dominators and Related Problems", 2005). It finds
//! semidominators as Lengauer and Tarjan do. A node's dominator is then the nearest common ancestor of its
//! semidominator and its parent in the depth-first tree; it is found by walking up.

/// The successors of each node, one node's after the other's: those of node `n` end at `ends[n]`.
#[derive(Default)]
pub(in crate::graph) struct Successors {
    pub(in crate::graph) ends: Vec<u32>,
    pub(in crate::graph) targets: Vec<u32>,
}

impl Successors {
    /// Ends the successors of the next node.
    pub(in crate::graph) fn end_node(&mut self) {
        self.ends.push(self.targets.len() as u32);
    }

    pub(in crate::graph) fn of(&self, node: usize) -> &[u32] {
        let start = node.checked_sub(1).map_or(0, |before| self.ends[before] as usize);
        &self.targets[start..self.ends[node] as usize]
    }

    pub(in crate::graph) fn len(&self) -> usize {
        self.ends.len()
    }
}

/// No node.
pub(in crate::graph) const NONE: u32 = u32::MAX;

/// The dominator tree of the nodes that node 0 reaches.
pub(in crate::graph) struct Dominators {
    /// The nodes in depth-first order, the root first: a dominator comes before what it dominates.
    pub(in crate::graph) order: Vec<u32>,
    /// The immediate dominator of each node; [`NONE`] of the root and of nodes that are not reached.
    pub(in crate::graph) parent: Vec<u32>,
}

impl Dominators {
    /// The dominators of a graph, which has at least one node.
    pub(in crate::graph) fn of(graph: &Successors) -> Self {
        let search = Search::new(graph);
        let idom = search.dominators(graph);
        let mut parent = vec![NONE; graph.len()];
        for (number, &node) in search.order.iter().enumerate().skip(1) {
            parent[node as usize] = search.order[idom[number] as usize];
        }
        Self { order: search.order, parent }
    }

    /// For each node the sum of `own` over the nodes that it dominates, itself included.
    pub(in crate::graph) fn sums(&self, own: impl Fn(usize) -> u64) -> Vec<u64> {
        let mut sums: Vec<u64> = (0..self.parent.len()).map(own).collect();
        for &node in self.order.iter().skip(1).rev() {
            let parent = self.parent[node as usize] as usize;
            sums[parent] += sums[node as usize];
        }
        sums
    }
}

/// A depth-first search from node 0. Nodes have numbers in the order in which they are met.
struct Search {
    order: Vec<u32>,
    /// The number of each node.
    number: Vec<u32>,
    /// The number of the parent in the tree, by number.
    tree_parent: Vec<u32>,
}

impl Search {
    fn new(graph: &Successors) -> Self {
        let mut search = Self { order: vec![0], number: vec![NONE; graph.len()], tree_parent: vec![0] };
        search.number[0] = 0;
        // A node's number, and how many of its successors were looked at.
        let mut path: Vec<(u32, u32)> = vec![(0, 0)];
        while let Some((number, looked)) = path.last_mut() {
            let node = search.order[*number as usize] as usize;
            let Some(&next) = graph.of(node).get(*looked as usize) else {
                path.pop();
                continue;
            };
            *looked += 1;
            if search.number[next as usize] == NONE {
                let new = search.order.len() as u32;
                search.number[next as usize] = new;
                search.tree_parent.push(*number);
                search.order.push(next);
                path.push((new, 0));
            }
        }
        search
    }

    /// The predecessors of each number, as numbers.
    fn predecessors(&self, graph: &Successors) -> Successors {
        let count = self.order.len();
        let mut starts = vec![0_u32; count + 1];
        let numbers = |node: u32| graph.of(node as usize).iter().map(|&next| self.number[next as usize] as usize);
        for target in self.order.iter().flat_map(|&node| numbers(node)) {
            starts[target + 1] += 1;
        }
        for index in 0..count {
            starts[index + 1] += starts[index];
        }
        let mut targets = vec![0; starts[count] as usize];
        let mut place = starts.clone();
        for (number, &node) in self.order.iter().enumerate() {
            for target in numbers(node) {
                targets[place[target] as usize] = number as u32;
                place[target] += 1;
            }
        }
        starts.remove(0);
        Successors { ends: starts, targets }
    }

    /// The number of each number's immediate dominator.
    fn dominators(&self, graph: &Successors) -> Vec<u32> {
        let count = self.order.len();
        let predecessors = self.predecessors(graph);
        let mut forest = Forest {
            ancestor: self.tree_parent.clone(),
            label: (0..count as u32).collect(),
            semi: (0..count as u32).collect(),
            path: Vec::new(),
        };
        for number in (1..count as u32).rev() {
            let mut semi = self.tree_parent[number as usize];
            for &before in predecessors.of(number as usize) {
                let least = forest.least(before, number + 1);
                semi = semi.min(forest.semi[least as usize]);
            }
            forest.semi[number as usize] = semi;
        }
        let mut dominators = self.tree_parent.clone();
        for number in 1..count {
            let mut dominator = dominators[number];
            while dominator > forest.semi[number] {
                dominator = dominators[dominator as usize];
            }
            dominators[number] = dominator;
        }
        dominators
    }
}

/// The part of the tree whose semidominators are known, with compressed paths.
struct Forest {
    ancestor: Vec<u32>,
    /// For each number, on the path up to its ancestor (without it): the number whose semidominator is least.
    label: Vec<u32>,
    semi: Vec<u32>,
    /// Numbers whose paths are being compressed.
    path: Vec<u32>,
}

impl Forest {
    /// The number with the least semidominator on the path from `number` up, among the known ones: those from `known`
    /// on.
    fn least(&mut self, number: u32, known: u32) -> u32 {
        let mut top = number;
        while self.ancestor[top as usize] >= known && top >= known {
            self.path.push(top);
            top = self.ancestor[top as usize];
        }
        // From the top down, each number takes over a lesser label from the one above it.
        while let Some(below) = self.path.pop() {
            let (above_label, own_label) = (self.label[top as usize], self.label[below as usize]);
            if self.semi[above_label as usize] < self.semi[own_label as usize] {
                self.label[below as usize] = above_label;
            }
            self.ancestor[below as usize] = self.ancestor[top as usize];
            top = below;
        }
        self.label[number as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn random(state: &mut u64, below: u64) -> u64 {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*state >> 33) % below
    }

    fn graph(nodes: usize, edges: &[(usize, usize)]) -> Successors {
        let mut graph = Successors::default();
        for node in 0..nodes {
            graph.targets.extend(edges.iter().filter(|edge| edge.0 == node).map(|edge| edge.1 as u32));
            graph.end_node();
        }
        graph
    }

    /// The nodes that node 0 reaches without passing `without`.
    fn reached_without(graph: &Successors, without: usize) -> Vec<bool> {
        let mut seen = vec![false; graph.len()];
        let mut left: Vec<usize> = if without == 0 { Vec::new() } else { vec![0] };
        while let Some(node) = left.pop() {
            if !core::mem::replace(&mut seen[node], true) {
                left.extend(graph.of(node).iter().map(|&next| next as usize).filter(|&next| next != without));
            }
        }
        seen
    }

    /// By the definition: the immediate dominator is the dominator that all other dominators dominate.
    fn check(graph: &Successors) {
        let found = Dominators::of(graph);
        let nodes = graph.len();
        let all = reached_without(graph, usize::MAX);
        let without: Vec<Vec<bool>> = (0..nodes).map(|node| reached_without(graph, node)).collect();
        let dominates = |one: usize, other: usize| one != other && all[one] && all[other] && !without[one][other];
        for (node, &is_reached) in all.iter().enumerate() {
            let mut above = (0..nodes).filter(|&one| dominates(one, node));
            let nearest = above.clone().find(|&one| above.clone().all(|other| other == one || dominates(other, one)));
            assert_eq!(found.parent[node], nearest.map_or(NONE, |node| node as u32), "node {node}");
            if !is_reached {
                assert!(above.next().is_none() && !found.order.contains(&(node as u32)));
            }
        }
        let sums = found.sums(|node| node as u64 + 1);
        for node in (0..nodes).filter(|&node| all[node]) {
            let dominated = (0..nodes).filter(|&other| other == node || dominates(node, other));
            assert_eq!(sums[node], dominated.map(|node| node as u64 + 1).sum::<u64>());
        }
    }

    #[test]
    fn dominators_of_random_graphs_are_those_of_the_definition() {
        let mut state = 7;
        for round in 0..3000 {
            let nodes = 1 + random(&mut state, 14) as usize;
            let count = random(&mut state, 3 * nodes as u64) as usize;
            let mut end = || random(&mut state, nodes as u64) as usize;
            let edges: Vec<_> = (0..count).map(|_| (end(), end())).collect();
            check(&graph(nodes, &edges));
            // A long path with edges back and across: what compression is for.
            let mut path: Vec<_> = (1..nodes).map(|node| (node - 1, node)).collect();
            path.extend(edges.iter().take(round % 5));
            check(&graph(nodes, &path));
        }
    }

    #[test]
    fn a_list_of_a_million_nodes_takes_no_stack() {
        let nodes = if cfg!(miri) { 1000 } else { 1_000_000 };
        let mut list = Successors::default();
        for node in 1..=nodes {
            list.targets.extend((node < nodes).then_some(node));
            list.targets.push(0);
            list.end_node();
        }
        let found = Dominators::of(&list);
        assert!((1..nodes).all(|node| found.parent[node as usize] == node - 1));
        assert_eq!(found.sums(|_| 1)[0], u64::from(nodes));
    }
}
