//! From where each block is reached, and by which shortest path.

use super::answers::Reach;
use crate::graph::found::{Edge, Root, RootKind};

/// The root or block from which a breadth-first search first reaches a block. So the way back to a root is shortest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::graph) enum Via {
    Nothing,
    /// The index of a root.
    Root(u32),
    /// The number of a block, and the word of it that refers.
    Block(u32, u32),
}

/// For each of `count` blocks: by what it is reached first, and its [`Reach`]. The roots are sorted by kind.
pub(in crate::graph) fn reached(count: usize, ends: &[u32], edges: &[Edge], roots: &[Root]) -> (Vec<Via>, Vec<Reach>) {
    let mut via = vec![Via::Nothing; count];
    let mut reach = vec![Reach::Unreachable; count];
    let mut queue: Vec<u32> = Vec::new();
    let foreign = roots.partition_point(|root| root.kind < RootKind::Foreign as u32);
    for (class, range) in [(Reach::Rooted, 0..foreign), (Reach::Foreign, foreign..roots.len())] {
        queue.clear();
        for index in range {
            let target = roots[index].target as usize;
            if reach[target] == Reach::Unreachable {
                (via[target], reach[target]) = (Via::Root(index as u32), class);
                queue.push(target as u32);
            }
        }
        let mut next = 0;
        while let Some(&node) = queue.get(next) {
            next += 1;
            let start = (node as usize).checked_sub(1).map_or(0, |before| ends[before] as usize);
            for edge in &edges[start..ends[node as usize] as usize] {
                let target = edge.target as usize;
                if reach[target] == Reach::Unreachable {
                    (via[target], reach[target]) = (Via::Block(node, edge.word), class);
                    queue.push(edge.target);
                }
            }
        }
    }
    (via, reach)
}
