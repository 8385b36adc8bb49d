//! The same amount of work, shared out among more and more threads.

use crate::measure::{Outcome, measure};
use crate::random::Random;
use crate::workloads::loops::{fill, replace_random};
use peers::params::{MIXED_BYTES, SCALING_BLOCKS, SCALING_PAIRS, SEED, Scale};
use std::thread;

pub fn scaling<const THREADS: usize>(scale: Scale) -> Outcome {
    let pairs = scale.of(SCALING_PAIRS);
    measure(pairs, || replace_in_threads(THREADS, SCALING_BLOCKS, pairs / THREADS))
}

/// Each thread fills a heap of its own and replaces random blocks in it.
pub fn replace_in_threads(threads: usize, blocks: usize, pairs: usize) -> u64 {
    let work = move |number: usize| {
        let mut random = Random::new(SEED + number as u64);
        let mut blocks = fill(&mut random, &MIXED_BYTES, blocks);
        replace_random(&mut random, &MIXED_BYTES, &mut blocks, pairs)
    };
    thread::scope(|scope| {
        let threads: Vec<_> =
            (0..threads).map(|number| scope.spawn(move || work(number))).collect();
        threads.into_iter().map(|thread| thread.join().expect("replace")).sum()
    })
}
