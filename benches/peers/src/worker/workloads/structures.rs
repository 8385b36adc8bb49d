//! Data structures made of one kind of node.

use crate::block::Chain;
use crate::measure::{Outcome, measure};
use crate::random::Random;
use peers::params::{
    LIST_COUNT, LIST_LIVE, LIST_NODES, SEED, STRING_APPENDS, STRING_LIVE, STRING_MAX_PIECES, Scale,
    THREADS, TREE_COUNT, TREE_DEPTH, VECTOR_LIVE, VECTOR_MAX, VECTOR_PUSHES,
};
use std::collections::VecDeque;
use std::thread;

/// The node of the binary-trees game: two pointers, 16 bytes.
struct Tree {
    left: Option<Box<Tree>>,
    right: Option<Box<Tree>>,
}

impl Tree {
    fn new(depth: u32) -> Self {
        let child = || (depth > 0).then(|| Box::new(Self::new(depth - 1)));
        Self { left: child(), right: child() }
    }

    fn count(&self) -> u64 {
        let count = |child: &Option<Box<Self>>| child.as_ref().map_or(0, |tree| tree.count());
        1 + count(&self.left) + count(&self.right)
    }
}

/// Builds, walks and drops trees; one long-lived tree stays beside them, as in the game.
fn trees(count: usize) -> u64 {
    let long_lived = Tree::new(TREE_DEPTH);
    (0..count).map(|_| Tree::new(TREE_DEPTH).count()).sum::<u64>() + long_lived.count()
}

const NODES_OF_A_TREE: usize = (2 << TREE_DEPTH) - 1;

pub fn trees_1(scale: Scale) -> Outcome {
    let count = scale.of(TREE_COUNT);
    measure(count * NODES_OF_A_TREE, || trees(count))
}

pub fn trees_4(scale: Scale) -> Outcome {
    let count = scale.of(TREE_COUNT);
    measure(count * NODES_OF_A_TREE, || {
        thread::scope(|scope| {
            let threads: Vec<_> =
                (0..THREADS).map(|_| scope.spawn(move || trees(count / THREADS))).collect();
            threads.into_iter().map(|thread| thread.join().expect("trees")).sum()
        })
    })
}

pub fn linked_lists(scale: Scale) -> Outcome {
    let count = scale.of(LIST_COUNT);
    let mut alive = VecDeque::with_capacity(LIST_LIVE);
    measure(count * LIST_NODES, || {
        let mut sum = 0;
        for _ in 0..count {
            if alive.len() == LIST_LIVE {
                sum += alive.pop_front().map_or(0, Chain::consume);
            }
            let mut chain = Chain::new(LIST_NODES);
            chain.reverse();
            alive.push_back(chain);
        }
        sum
    })
}

pub fn growing_vectors(scale: Scale) -> Outcome {
    let pushes = scale.of(VECTOR_PUSHES);
    let mut random = Random::new(SEED);
    let mut vectors: Vec<Vec<u64>> = vec![Vec::new(); VECTOR_LIVE];
    measure(pushes, || {
        let mut sum = 0;
        for number in 0..pushes {
            let vector = &mut vectors[random.below(VECTOR_LIVE)];
            if vector.len() == VECTOR_MAX {
                sum += vector.iter().sum::<u64>();
                *vector = Vec::new();
            }
            vector.push(number as u64);
        }
        sum
    })
}

pub fn growing_strings(scale: Scale) -> Outcome {
    const PIECE: &str = "abcdefghijkl";
    let appends = scale.of(STRING_APPENDS);
    let mut random = Random::new(SEED);
    let mut strings = vec![String::new(); STRING_LIVE];
    let mut pieces = [0; STRING_LIVE];
    measure(appends, || {
        let mut sum = 0;
        for _ in 0..appends {
            let index = random.below(STRING_LIVE);
            if pieces[index] == STRING_MAX_PIECES {
                sum += strings[index].len() as u64;
                strings[index] = String::new();
                pieces[index] = 0;
            }
            strings[index].push_str(&PIECE[..=random.below(PIECE.len())]);
            pieces[index] += 1;
        }
        sum
    })
}
