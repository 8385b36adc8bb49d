//! Random numbers that are the same on every machine and in every release of every crate.

/// What the words of a text are made of.
const SYLLABLES: [&str; 32] = [
    "re", "in", "the", "on", "al", "ti", "er", "ve", "con", "ment", "an", "or", "de", "li", "sta",
    "pro", "ble", "ra", "mo", "per", "ca", "tri", "no", "si", "lo", "ga", "ver", "pu", "hy", "fu",
    "qui", "zo",
];

/// SplitMix64: tiny, and good enough to spread indices.
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
}

impl Random {
    /// A sequence of its own for each seed.
    pub const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next number.
    #[inline]
    pub const fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// The next number below `limit`.
    #[inline]
    pub const fn below(&mut self, limit: usize) -> usize {
        ((self.next() as u128 * limit as u128) >> 64) as usize
    }

    /// A random one of `choices`.
    #[inline]
    pub const fn pick(&mut self, choices: &[usize]) -> usize {
        choices[self.below(choices.len())]
    }

    /// A number from `least` to `most`, with about the same chance for each doubling.
    pub fn between(&mut self, (least, most): (usize, usize)) -> usize {
        let doublings = (most / least).ilog2() as usize;
        let low = least << self.below(doublings + 1);
        low + self.below(low.min(most - low) + 1)
    }

    /// A text of lower-case words, of exactly that many bytes.
    pub fn text(&mut self, bytes: usize) -> String {
        let mut text = String::with_capacity(bytes + 20);
        while text.len() < bytes {
            // The smaller of two: some syllables are more frequent.
            for _ in 0..=self.below(3) {
                let (one, other) = (self.below(SYLLABLES.len()), self.below(SYLLABLES.len()));
                text.push_str(SYLLABLES[one.min(other)]);
            }
            text.push(' ');
        }
        text.truncate(bytes);
        text
    }

    /// The numbers below `count` in random order.
    pub fn shuffled(&mut self, count: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..count).collect();
        for index in (1..count).rev() {
            order.swap(index, self.below(index + 1));
        }
        order
    }
}
