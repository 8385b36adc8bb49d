//! Decides which allocations are sampled, and how many blocks each sample stands for.
//!
//! Samples are the points of a Poisson process over the bytes that a thread allocates, with a mean distance of
//! `interval` bytes: a block of *s* bytes is sampled with probability *p = 1 − exp(−s / interval)*, whatever came
//! before it. It then stands for *1/p* blocks and *s/p* bytes, which makes every sum over samples an unbiased estimate
//! (Horvitz and Thompson, 1952). The variance of such a sum of bytes is estimated, without bias, by the sum of *s² (1 −
//! p) / p²* over the samples, and the variance of the count by the sum of *(1 − p) / p²*.

use core::cell::Cell;

/// How many blocks one sampled block stands for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::trace) struct Weight {
    /// Blocks.
    pub(in crate::trace) count: f64,
    /// The variance that it adds to a count.
    pub(in crate::trace) count_variance: f64,
}

/// How many blocks a block of `bytes` stands for; `interval` is 0 when every block is traced.
pub(in crate::trace) fn weight(bytes: u64, interval: u64) -> Weight {
    if interval == 0 {
        return Weight { count: 1.0, count_variance: 0.0 };
    }
    // `exp_m1` keeps its precision where bytes are few and the interval is long.
    let probability = -(-(bytes.max(1) as f64) / interval as f64).exp_m1();
    Weight { count: 1.0 / probability, count_variance: (1.0 - probability) / (probability * probability) }
}

/// The bytes that a block stands for, rounded.
pub(in crate::trace) fn weighted_bytes(bytes: u64, interval: u64) -> u64 {
    if interval == 0 { bytes } else { (weight(bytes, interval).count * bytes as f64).round() as u64 }
}

/// A thread's state in the Poisson process.
pub(in crate::trace) struct Sampler {
    /// The session that the distance was drawn for.
    session: Cell<u32>,
    /// Bytes to the next sample.
    distance: Cell<u64>,
    /// The state of splitmix64 (Steele, Lea and Flood, 2014).
    random: Cell<u64>,
}

impl Sampler {
    pub(in crate::trace) const fn new() -> Self {
        Self { session: Cell::new(0), distance: Cell::new(0), random: Cell::new(0) }
    }

    /// Whether to sample the next allocation, of `bytes`. `seed` differs between threads.
    pub(in crate::trace) fn samples(&self, bytes: u64, interval: u64, session: u32, seed: u64) -> bool {
        if self.session.replace(session) != session {
            self.random.set(self.random.get() ^ seed ^ u64::from(session).rotate_left(32));
            self.draw(interval);
        }
        // No request is of 0 bytes; if one were, it would count as one byte, as in `weight`.
        let left = self.distance.get().checked_sub(bytes.max(1));
        match left {
            Some(left) => self.distance.set(left),
            // The process has no memory: the distance is drawn anew from the end of the block.
            None => self.draw(interval),
        }
        left.is_none()
    }

    /// An exponentially distributed distance, rounded down.
    fn draw(&self, interval: u64) {
        let state = self.random.get().wrapping_add(0x9E37_79B9_7F4A_7C15);
        self.random.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        // In (0, 1]: its logarithm is finite.
        let uniform = (((mixed ^ (mixed >> 31)) >> 11) + 1) as f64 / (1_u64 << 53) as f64;
        self.distance.set((-uniform.ln() * interval as f64) as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Estimates of a known number of blocks, each by one thread's sampler.
    fn estimates(bytes: u64, blocks: u64, interval: u64) -> (f64, f64, f64) {
        let (mut sum, mut square, mut variance) = (0.0, 0.0, 0.0);
        let runs: u32 = 400;
        for run in 0..runs {
            let sampler = Sampler::new();
            let weight = weight(bytes, interval);
            let samples = (0..blocks).filter(|_| sampler.samples(bytes, interval, 1, u64::from(run) << 20)).count();
            let estimate = samples as f64 * weight.count;
            sum += estimate;
            square += (estimate - blocks as f64).powi(2);
            variance += samples as f64 * weight.count_variance;
        }
        let runs = f64::from(runs);
        (sum / runs, (square / runs).sqrt(), (variance / runs).sqrt())
    }

    #[test]
    fn estimates_are_unbiased_and_their_error_is_what_is_stated() {
        for (bytes, blocks, interval) in [(8, 20_000, 1000), (64, 5000, 4096), (1000, 400, 1000), (5000, 300, 2048)] {
            let (mean, error, stated) = estimates(bytes, blocks, interval);
            // Seeds are fixed, so this passes or fails for good. The mean of 400 runs has an error of error / 20.
            assert!((mean - blocks as f64).abs() < 4.0 * error / 20.0, "{bytes}: mean {mean} of {blocks}, {error}");
            assert!((stated / error - 1.0).abs() < 0.15, "{bytes}: error {error}, stated {stated}");
        }
    }

    #[test]
    fn without_an_interval_every_block_stands_for_itself() {
        assert_eq!(weight(10, 0), Weight { count: 1.0, count_variance: 0.0 });
        assert_eq!(weighted_bytes(10, 0), 10);
        // A block far larger than the interval is sampled for sure.
        assert_eq!(weighted_bytes(1 << 40, 1), 1 << 40);
    }
}
