//! Strongly connected components: sets of blocks in which each block reaches all others, so that they form circles.
//!
//! The algorithm is Tarjan's, "Depth-first search and linear graph algorithms" (1972). It keeps the path in a vector
//! rather than on the call stack, which may be too small.

use super::dominators::Successors;

/// The components of a graph.
pub(in crate::graph) struct Components {
    /// The component of each node. A component's successors have lower numbers.
    pub(in crate::graph) of: Vec<u32>,
    pub(in crate::graph) count: usize,
}

const UNSEEN: u32 = u32::MAX;

impl Components {
    pub(in crate::graph) fn of(graph: &Successors) -> Self {
        let nodes = graph.len();
        let mut search = Search {
            number: vec![UNSEEN; nodes],
            low: vec![0; nodes],
            open: Vec::new(),
            path: Vec::new(),
            found: Self { of: vec![UNSEEN; nodes], count: 0 },
            next: 0,
        };
        for node in 0..nodes as u32 {
            if search.number[node as usize] == UNSEEN {
                search.from(node, graph);
            }
        }
        search.found
    }
}

struct Search {
    /// The number of each node, in the order in which they are met.
    number: Vec<u32>,
    /// The least number that a node is known to lead back to.
    low: Vec<u32>,
    /// Nodes whose component is not known yet.
    open: Vec<u32>,
    /// A node, and how many of its successors were looked at.
    path: Vec<(u32, u32)>,
    found: Components,
    next: u32,
}

impl Search {
    fn enter(&mut self, node: u32) {
        self.number[node as usize] = self.next;
        self.low[node as usize] = self.next;
        self.next += 1;
        self.open.push(node);
        self.path.push((node, 0));
    }

    fn from(&mut self, start: u32, graph: &Successors) {
        self.enter(start);
        while let Some((node, looked)) = self.path.last_mut() {
            let node = *node as usize;
            if let Some(&next) = graph.of(node).get(*looked as usize) {
                *looked += 1;
                if self.number[next as usize] == UNSEEN {
                    self.enter(next);
                } else if self.found.of[next as usize] == UNSEEN {
                    self.low[node] = self.low[node].min(self.number[next as usize]);
                }
                continue;
            }
            self.path.pop();
            if let Some(&(above, _)) = self.path.last() {
                self.low[above as usize] = self.low[above as usize].min(self.low[node]);
            }
            if self.low[node] == self.number[node] {
                self.close(node as u32);
            }
        }
    }

    /// Closes a component: all open nodes from `node` on.
    fn close(&mut self, node: u32) {
        while let Some(last) = self.open.pop() {
            self.found.of[last as usize] = self.found.count as u32;
            if last == node {
                break;
            }
        }
        self.found.count += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_of_random_graphs_are_those_of_the_definition() {
        let mut state = 11_u64;
        let mut random = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        for _ in 0..2000 {
            let nodes = 1 + random(12);
            let edges: Vec<(usize, usize)> = (0..random(2 * nodes)).map(|_| (random(nodes), random(nodes))).collect();
            let mut graph = Successors::default();
            let mut reaches = vec![false; nodes * nodes];
            for node in 0..nodes {
                reaches[node * nodes + node] = true;
                graph.targets.extend(edges.iter().filter(|edge| edge.0 == node).map(|edge| edge.1 as u32));
                graph.end_node();
            }
            for &(from, to) in &edges {
                reaches[from * nodes + to] = true;
            }
            for middle in 0..nodes {
                for from in 0..nodes {
                    for to in 0..nodes {
                        reaches[from * nodes + to] |= reaches[from * nodes + middle] && reaches[middle * nodes + to];
                    }
                }
            }
            let found = Components::of(&graph);
            for from in 0..nodes {
                for to in 0..nodes {
                    let reached = reaches[from * nodes + to];
                    let same = reached && reaches[to * nodes + from];
                    assert_eq!(found.of[from] == found.of[to], same);
                    if reached && !same {
                        assert!(found.of[from] > found.of[to]);
                    }
                }
            }
        }
    }
}
