//! Allocate and free in a loop, one thread.

use crate::block::Block;
use crate::measure::{Outcome, measure};
use crate::random::Random;
use peers::params::{
    Amount, LARGE_BYTES, LARGE_ONLY_BLOCKS, LARGE_ONLY_PAIRS, MIXED_BYTES, MIXED_SIZES_PAIRS,
    ONE_SIZE_PAIRS, ONE_SIZE_WORDS, OVER_ALIGNED_PAIRS, QUEUE_BLOCKS, QUEUE_ROUNDS,
    REPLACE_1K_PAIRS, REPLACE_1M_PAIRS, REPLACE_100K_PAIRS, SEED, SHUFFLED_BLOCKS, SHUFFLED_ROUNDS,
    Scale,
};
use std::collections::VecDeque;
use std::hint::black_box;

/// The `Layout` is a constant here: an allocator that is inlined can fold its size class.
pub fn one_size(scale: Scale) -> Outcome {
    let pairs = scale.of(ONE_SIZE_PAIRS);
    measure(pairs, || {
        for _ in 0..pairs {
            // The contents stay unwritten: only the allocator is at work.
            black_box(Box::<[u64; ONE_SIZE_WORDS]>::new_uninit());
        }
        pairs as u64
    })
}

/// Sizes in a random order that the branch predictor cannot learn.
fn size_sequence(sizes: &[usize]) -> Vec<usize> {
    let mut random = Random::new(SEED);
    (0..1 << 16).map(|_| random.pick(sizes)).collect()
}

pub fn mixed_sizes(scale: Scale) -> Outcome {
    let pairs = scale.of(MIXED_SIZES_PAIRS);
    let sizes = size_sequence(&MIXED_BYTES);
    measure(pairs, || {
        let mut sum = 0;
        for &bytes in sizes.iter().cycle().take(pairs) {
            sum += Block::new(bytes).first_byte();
        }
        sum
    })
}

/// What hash tables (16) and async runtimes (64 and 128) ask for.
pub fn over_aligned(scale: Scale) -> Outcome {
    const LAYOUTS: [(usize, usize); 8] =
        [(64, 16), (144, 16), (272, 16), (64, 64), (192, 64), (128, 128), (256, 128), (384, 128)];
    let pairs = scale.of(OVER_ALIGNED_PAIRS);
    let mut random = Random::new(SEED);
    let layouts: Vec<_> = (0..1 << 16).map(|_| LAYOUTS[random.below(LAYOUTS.len())]).collect();
    measure(pairs, || {
        let mut sum = 0;
        for &(bytes, align) in layouts.iter().cycle().take(pairs) {
            let block = Block::aligned(bytes, align);
            sum += block.first_byte() + (block.as_ptr().addr() % align) as u64;
        }
        sum
    })
}

pub fn lifo(scale: Scale) -> Outcome {
    let rounds = scale.of(QUEUE_ROUNDS);
    let sizes = size_sequence(&MIXED_BYTES);
    let mut stack = Vec::with_capacity(QUEUE_BLOCKS);
    measure(rounds * QUEUE_BLOCKS, || {
        let mut sum = 0;
        for _ in 0..rounds {
            stack.extend(sizes[..QUEUE_BLOCKS].iter().map(|&bytes| Block::new(bytes)));
            while let Some(block) = stack.pop() {
                sum += block.first_byte();
            }
        }
        sum
    })
}

pub fn fifo(scale: Scale) -> Outcome {
    let rounds = scale.of(QUEUE_ROUNDS);
    let sizes = size_sequence(&MIXED_BYTES);
    let mut queue = VecDeque::with_capacity(QUEUE_BLOCKS);
    measure(rounds * QUEUE_BLOCKS, || {
        let mut sum = 0;
        for &bytes in sizes.iter().cycle().take(rounds * QUEUE_BLOCKS) {
            if queue.len() == QUEUE_BLOCKS {
                sum += queue.pop_front().as_ref().map_or(0, Block::first_byte);
            }
            queue.push_back(Block::new(bytes));
        }
        sum
    })
}

/// The order of frees is worked out beforehand; only it is random, the allocations are not.
pub fn shuffled(scale: Scale) -> Outcome {
    let rounds = scale.of(SHUFFLED_ROUNDS);
    let sizes = size_sequence(&MIXED_BYTES);
    let order = Random::new(SEED).shuffled(SHUFFLED_BLOCKS);
    let mut blocks: Vec<Option<Block>> = Vec::with_capacity(SHUFFLED_BLOCKS);
    measure(rounds * SHUFFLED_BLOCKS, || {
        let mut sum = 0;
        for _ in 0..rounds {
            blocks.clear();
            let round = sizes.iter().cycle().take(SHUFFLED_BLOCKS);
            blocks.extend(round.map(|&bytes| Some(Block::new(bytes))));
            for &index in &order {
                let block = blocks[index].take();
                sum += block.map_or(0, |block| block.bytes() as u64);
            }
        }
        sum
    })
}

pub fn replace_1k(scale: Scale) -> Outcome {
    replace(scale, 1_000, REPLACE_1K_PAIRS)
}

pub fn replace_100k(scale: Scale) -> Outcome {
    replace(scale, 100_000, REPLACE_100K_PAIRS)
}

pub fn replace_1m(scale: Scale) -> Outcome {
    replace(scale, 1_000_000, REPLACE_1M_PAIRS)
}

fn replace(scale: Scale, live: usize, pairs: Amount) -> Outcome {
    let pairs = scale.of(pairs);
    let mut random = Random::new(SEED);
    let mut blocks = fill(&mut random, &MIXED_BYTES, live);
    measure(pairs, || replace_random(&mut random, &MIXED_BYTES, &mut blocks, pairs))
}

pub fn large_only(scale: Scale) -> Outcome {
    let pairs = scale.of(LARGE_ONLY_PAIRS);
    let mut random = Random::new(SEED);
    let mut blocks = fill(&mut random, &LARGE_BYTES, LARGE_ONLY_BLOCKS);
    measure(pairs, || replace_random(&mut random, &LARGE_BYTES, &mut blocks, pairs))
}

/// `count` blocks of random sizes.
pub fn fill(random: &mut Random, sizes: &[usize], count: usize) -> Vec<Block> {
    (0..count).map(|_| Block::new(random.pick(sizes))).collect()
}

/// Frees a random block and puts a new one in its place, `pairs` times.
pub fn replace_random(
    random: &mut Random,
    sizes: &[usize],
    blocks: &mut [Block],
    pairs: usize,
) -> u64 {
    let mut sum = 0;
    for _ in 0..pairs {
        let index = random.below(blocks.len());
        // The new block first would be another workload: here the hole can be filled at once.
        // SAFETY: nothing between the read and the write can unwind (an allocator must not).
        unsafe {
            let slot = blocks.as_mut_ptr().add(index);
            let old = slot.read();
            sum += old.bytes() as u64;
            drop(old);
            slot.write(Block::new(random.pick(sizes)));
        }
    }
    sum
}
