//! Requests above the small ones only: of 513 bytes to 32 KiB, and to 1 MiB.

use crate::block::Block;
use crate::measure::{Outcome, measure};
use crate::random::Random;
use crate::workloads::loops::{fill, replace_random};
use peers::params::{
    CHANNEL_MESSAGES, MEDIUM_BYTES, MEDIUM_HOT_PAIRS, MEDIUM_LIVE_PAIRS, MEDIUM_MEAN_BYTES,
    MEDIUM_MESSAGE_BLOCKS, MEDIUM_MESSAGES, MEDIUM_SHUFFLED_BLOCKS, MEDIUM_SHUFFLED_ROUNDS,
    MEGABYTE_BYTES, MEGABYTE_LIVE, MEGABYTE_PAIRS, SEED, Scale,
};
use std::sync::mpsc::sync_channel;
use std::thread;

pub fn hot(scale: Scale) -> Outcome {
    let pairs = scale.of(MEDIUM_HOT_PAIRS);
    let mut random = Random::new(SEED);
    let sizes: Vec<_> = (0..1 << 16).map(|_| random.pick(&MEDIUM_BYTES)).collect();
    measure(pairs, || {
        sizes.iter().cycle().take(pairs).map(|&bytes| Block::new(bytes).first_byte()).sum()
    })
}

pub fn shuffled(scale: Scale) -> Outcome {
    let rounds = scale.of(MEDIUM_SHUFFLED_ROUNDS);
    let mut random = Random::new(SEED);
    let order = random.shuffled(MEDIUM_SHUFFLED_BLOCKS);
    let sizes: Vec<_> = (0..MEDIUM_SHUFFLED_BLOCKS).map(|_| random.pick(&MEDIUM_BYTES)).collect();
    let mut blocks: Vec<Option<Block>> = Vec::with_capacity(MEDIUM_SHUFFLED_BLOCKS);
    measure(rounds * MEDIUM_SHUFFLED_BLOCKS, || {
        let mut sum = 0;
        for _ in 0..rounds {
            blocks.clear();
            blocks.extend(sizes.iter().map(|&bytes| Some(Block::new(bytes))));
            for &index in &order {
                sum += blocks[index].take().map_or(0, |block| block.bytes() as u64);
            }
        }
        sum
    })
}

/// `MIB` MiB live, of which random blocks are replaced.
pub fn live<const MIB: usize>(scale: Scale) -> Outcome {
    let pairs = scale.of(MEDIUM_LIVE_PAIRS);
    let mut random = Random::new(SEED);
    let mut blocks = fill(&mut random, &MEDIUM_BYTES, (MIB << 20) / MEDIUM_MEAN_BYTES);
    measure(pairs, || replace_random(&mut random, &MEDIUM_BYTES, &mut blocks, pairs))
}

pub fn to_a_megabyte(scale: Scale) -> Outcome {
    let pairs = scale.of(MEGABYTE_PAIRS);
    let mut random = Random::new(SEED);
    let mut blocks = fill(&mut random, &MEGABYTE_BYTES, MEGABYTE_LIVE);
    measure(pairs, || replace_random(&mut random, &MEGABYTE_BYTES, &mut blocks, pairs))
}

/// One thread allocates, another frees.
pub fn handed_on(scale: Scale) -> Outcome {
    let messages = scale.of(MEDIUM_MESSAGES);
    measure(messages * MEDIUM_MESSAGE_BLOCKS, || {
        let (sender, receiver) = sync_channel::<Vec<Block>>(CHANNEL_MESSAGES);
        thread::scope(|scope| {
            let freer = scope.spawn(move || {
                let bytes = |blocks: Vec<Block>| blocks.iter().map(Block::first_byte).sum::<u64>();
                receiver.into_iter().map(bytes).sum::<u64>()
            });
            let mut random = Random::new(SEED);
            for _ in 0..messages {
                let blocks = fill(&mut random, &MEDIUM_BYTES, MEDIUM_MESSAGE_BLOCKS);
                sender.send(blocks).expect("the other thread listens");
            }
            drop(sender);
            freer.join().expect("the other thread")
        })
    })
}
