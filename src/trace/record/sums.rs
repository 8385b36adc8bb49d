//! Sums of bytes and blocks by key: a small hash table in the tracer's own memory, which grows inside calls of the
//! allocator.
//!
//! # Invariant
//! - *Probe*: from a key's home to its place there is no empty entry. Entries are never taken out singly.

use super::memory::Mapped;
use super::stacks::StackId;

/// Entries of the first table.
const FIRST_ENTRIES: usize = 32;

/// A stack and the interval of a timeline in which its blocks were allocated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::trace) struct SumKey(u64);

impl SumKey {
    #[inline(always)]
    pub(in crate::trace) fn new(stack: StackId, birth: u16) -> Self {
        // Not 0, which marks an empty entry.
        Self((u64::from(birth) << StackId::BITS | u64::from(stack.number())) + 1)
    }

    pub(in crate::trace) fn stack(self) -> StackId {
        StackId::from_number((self.0 - 1) as u32)
    }

    pub(in crate::trace) fn birth(self) -> u16 {
        ((self.0 - 1) >> StackId::BITS) as u16
    }

    /// Where its search begins in a table whose index has `64 - shift` bits.
    #[inline(always)]
    fn home(self, shift: u32) -> usize {
        // Fibonacci hashing (Knuth, volume 3, 6.4).
        (self.0.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (shift & 63)) as usize
    }
}

/// A change of bytes and blocks; it may be negative.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(in crate::trace) struct Change {
    pub(in crate::trace) bytes: i64,
    pub(in crate::trace) blocks: i64,
}

#[derive(Clone, Copy)]
struct Entry {
    /// 0 if empty.
    key: u64,
    sum: Change,
}

impl Entry {
    #[inline(always)]
    fn add(&mut self, change: Change) {
        self.sum.bytes = self.sum.bytes.wrapping_add(change.bytes);
        self.sum.blocks = self.sum.blocks.wrapping_add(change.blocks);
    }
}

/// # Invariant
/// - *Shift*: `entries` has `2^(64 - shift)` values, or none.
pub(in crate::trace) struct Sums {
    entries: Mapped<Entry>,
    shift: u32,
    used: usize,
}

impl Sums {
    pub(in crate::trace) const fn new() -> Self {
        Self { entries: Mapped::new(), shift: 0, used: 0 }
    }

    /// The first address and the bytes of its own array.
    #[cfg(feature = "graph")]
    pub(in crate::trace) fn array(&self) -> (usize, usize) {
        (self.entries.as_ptr().addr(), size_of_val(&*self.entries))
    }

    /// Adds to a key's sum; `None` if there is no memory for a further key.
    #[inline(always)]
    pub(in crate::trace) fn add(&mut self, key: SumKey, change: Change) -> Option<()> {
        // Nearly every key is known and at its home.
        match self.entries.get_mut(key.home(self.shift)) {
            Some(entry) if entry.key == key.0 => {
                entry.add(change);
                Some(())
            }
            _ => self.add_elsewhere(key, change),
        }
    }

    #[cold]
    #[inline(never)]
    fn add_elsewhere(&mut self, key: SumKey, change: Change) -> Option<()> {
        // At most half full: a search is then short.
        if self.used * 2 >= self.entries.len() {
            self.grow()?;
        }
        let mask = self.entries.len() - 1;
        let mut place = key.home(self.shift);
        loop {
            let entry = &mut self.entries[place];
            if entry.key == 0 {
                entry.key = key.0;
                self.used += 1;
            }
            if entry.key == key.0 {
                entry.add(change);
                return Some(());
            }
            place = (place + 1) & mask;
        }
    }

    fn grow(&mut self) -> Option<()> {
        let entries = Mapped::<Entry>::zeroed((self.entries.len() * 2).max(FIRST_ENTRIES))?;
        self.shift = 64 - entries.len().trailing_zeros();
        let old = core::mem::replace(&mut self.entries, entries);
        self.used = 0;
        for entry in old.iter().filter(|entry| entry.key != 0) {
            // Half as full as before: it does not grow again.
            self.add(SumKey(entry.key), entry.sum)?;
        }
        Some(())
    }

    /// The sums that are not zero, in no order.
    pub(in crate::trace) fn iter(&self) -> impl Iterator<Item = (SumKey, Change)> + '_ {
        let full = self.entries.iter().filter(|entry| entry.key != 0 && entry.sum != Change::default());
        full.map(|entry| (SumKey(entry.key), entry.sum))
    }

    /// Forgets all sums and keeps the memory; a large table that was hardly used shrinks.
    pub(in crate::trace) fn clear(&mut self) {
        if self.entries.len() > 128 * FIRST_ENTRIES && self.used * 16 < self.entries.len() {
            *self = Self::new();
        }
        if self.used > 0 {
            self.entries.fill(Entry { key: 0, sum: Change { bytes: 0, blocks: 0 } });
        }
        self.used = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn sums_are_those_of_a_map_and_what_cancels_out_is_left_out() {
        let mut sums = Sums::new();
        let mut random = 1_u64;
        for round in 0..3 {
            let mut model: HashMap<(u32, u16), (i64, i64)> = HashMap::new();
            for _ in 0..40_000 {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let (stack, birth) = ((random >> 40) as u32 % 500, (random >> 20) as u16 % 9 * 7281);
                let change = Change { bytes: (random >> 50) as i64 % 3 - 1, blocks: (random >> 33) as i64 % 3 - 1 };
                let key = SumKey::new(StackId::from_number(stack), birth);
                assert_eq!((key.stack().number(), key.birth()), (stack, birth));
                sums.add(key, change).expect("memory");
                let sum = model.entry((stack, birth)).or_default();
                *sum = (sum.0 + change.bytes, sum.1 + change.blocks);
            }
            model.retain(|_, sum| *sum != (0, 0));
            let found: HashMap<_, _> =
                sums.iter().map(|(key, sum)| ((key.stack().number(), key.birth()), (sum.bytes, sum.blocks))).collect();
            assert!(!found.is_empty() && found == model, "round {round}");
            sums.clear();
            assert_eq!(sums.iter().count(), 0);
        }
    }
}
