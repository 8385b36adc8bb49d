//! The same work in a larger and larger heap: from the cache out into memory.

use crate::measure::{Outcome, measure_keeping};
use crate::random::Random;
use crate::workloads::loops::{fill, replace_random};
use peers::params::{LIVE_PAIRS, MEAN_BYTES, MIXED_BYTES, SEED, Scale};

/// `MIB` mebibytes of blocks, filled before the clock starts.
pub fn live<const MIB: usize>(scale: Scale) -> Outcome {
    let pairs = scale.of(LIVE_PAIRS);
    let mut random = Random::new(SEED);
    let mut blocks = fill(&mut random, &MIXED_BYTES, (MIB << 20) / MEAN_BYTES);
    let (outcome, blocks) = measure_keeping(pairs, || {
        (replace_random(&mut random, &MIXED_BYTES, &mut blocks, pairs), blocks)
    });
    // Freeing them one by one would take longer than the run; the process ends.
    std::mem::forget(blocks);
    outcome.with_live_bytes(MIB << 20)
}
