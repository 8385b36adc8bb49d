//! Random choice: one generator per thread, the order of a refill, and the order in which blocks leave the quarantine.
//!
//! The generator is a multiplicative congruential one modulo 2^64 with an added constant (Knuth's MMIX constants), of
//! which the highest bits are used. It is seeded with 64 bits from the kernel when a thread gets its cache, and again
//! in a forked child. It is cheap, and *not* cryptographic: an attacker who sees some dozens of addresses in a row can
//! compute its state. It serves against bugs, and against attackers who do not see addresses.

use core::cell::Cell;

use crate::heap::pool::Slot;
use crate::os;
use crate::sync::Ordering;

/// A thread's generator. Zeroed memory is a valid value, which must be seeded.
pub(crate) struct Random(Cell<u64>);

impl Random {
    pub(crate) const fn new() -> Self {
        Self(Cell::new(0))
    }

    /// Seeds the generator with a number from the kernel.
    #[cold]
    pub(crate) fn seed(&self) {
        self.0.set(self.0.get() ^ os::random_number());
    }

    /// `BITS` random bits.
    #[inline(always)]
    pub(crate) fn bits<const BITS: u32>(&self) -> usize {
        let next = self.0.get().wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0.set(next);
        (next >> (u64::BITS - BITS)) as usize
    }

    /// A number below `limit`, which is at most 2^32; all are equally likely, except for one part in 2^32 / `limit`.
    fn below(&self, limit: usize) -> usize {
        (self.bits::<32>() * limit) >> 32
    }

    /// Shuffles the values of the slots: all orders are equally likely (Fisher and Yates).
    pub(crate) fn shuffle(&self, slots: &[Slot]) {
        for last in (1..slots.len()).rev() {
            let other = self.below(last + 1);
            if let (Some(one), Some(other)) = (slots.get(last), slots.get(other)) {
                // Relaxed (all): slots are read by their thread, or under the door.
                let held = one.load(Ordering::Relaxed);
                one.store(other.load(Ordering::Relaxed), Ordering::Relaxed);
                other.store(held, Ordering::Relaxed);
            }
        }
    }

    /// A random order of `COUNT` things: the numbers below `COUNT`, a power of two, each once.
    ///
    /// There are `COUNT^3` such orders. Each number is equally likely to be the first. Half of them are left for the
    /// second place, a quarter for the third, and after some more places there is hardly a choice. It takes a quarter
    /// of the instructions of a [`shuffle`](Self::shuffle).
    #[inline(always)]
    pub(crate) fn order<const COUNT: usize>(&self) -> impl Iterator<Item = usize> {
        order_of::<COUNT>(self.bits::<32>())
    }
}

/// A polynomial of second degree that takes each value below `COUNT` once (an odd first coefficient, an even second
/// one), and an exclusive or. The bytes of `random` are the coefficients.
#[inline(always)]
fn order_of<const COUNT: usize>(random: usize) -> impl Iterator<Item = usize> {
    const { assert!(COUNT.is_power_of_two() && COUNT <= 1 << 8) }
    let (mut value, mut step, bend, mask) = (random, random >> 8 | 1, random >> 16 & !3, random >> 24);
    (0..COUNT).map(move |_| {
        let number = (value ^ mask) & (COUNT - 1);
        value = value.wrapping_add(step);
        step = step.wrapping_add(bend);
        number
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::ptr;
    use std::collections::{BTreeMap, BTreeSet};
    use std::vec::Vec;

    const COUNT: usize = 32;

    fn every_order() -> impl Iterator<Item = Vec<usize>> {
        let bytes = |shift: u32, step: usize| (0..COUNT).step_by(step).map(move |value| value << shift);
        bytes(0, 1).flat_map(move |value| {
            bytes(8, 2).flat_map(move |step| {
                bytes(16, 4).flat_map(move |bend| {
                    bytes(24, 1).map(move |mask| order_of::<COUNT>(value | step | bend | mask).collect())
                })
            })
        })
    }

    #[test]
    fn a_seed_always_changes_the_state() {
        let random = Random::new();
        let mut states = BTreeSet::from([random.0.get()]);
        for _ in 0..200 {
            random.seed();
            assert!(states.insert(random.0.get()), "a state that was there before");
        }
    }

    /// From a given state, so that it always comes out the same; each order is expected 1,000 times.
    #[test]
    fn a_shuffle_gives_each_order_of_what_was_there_equally_often() {
        let random = Random::new();
        let mut counts = BTreeMap::<Vec<usize>, usize>::new();
        for _ in 0..24_000 {
            let slots: [Slot; 4] = core::array::from_fn(|number| Slot::new(ptr::without_provenance_mut(number)));
            random.shuffle(&slots);
            *counts.entry(slots.iter().map(|slot| slot.load(Ordering::Relaxed).addr()).collect()).or_default() += 1;
        }
        assert_eq!(counts.len(), 24);
        for (order, count) in counts {
            assert_eq!(order.iter().copied().collect::<BTreeSet<_>>(), (0..4).collect(), "{order:?}");
            assert!((850..1_150).contains(&count), "{order:?} came {count} times");
        }
    }

    #[test]
    fn every_bit_of_what_is_asked_for_is_set_half_of_the_time() {
        fn check<const BITS: u32>() {
            let random = Random::new();
            let mut set = [0; 64];
            for _ in 0..4_000 {
                let bits = random.bits::<BITS>();
                assert!(BITS == 64 || bits >> BITS == 0);
                set.iter_mut().enumerate().for_each(|(bit, count)| *count += bits >> bit & 1);
            }
            let asked = &set[..BITS as usize];
            assert!(asked.iter().all(|count| (1_800..2_200).contains(count)), "{BITS}: {asked:?}");
        }
        check::<1>();
        check::<5>();
        check::<32>();
    }

    #[test]
    fn an_order_has_each_number_once_and_there_are_as_many_orders_as_is_said() {
        let mut orders = BTreeSet::new();
        for order in every_order() {
            assert_eq!(order.iter().copied().collect::<BTreeSet<_>>().len(), COUNT);
            orders.insert(order);
        }
        assert_eq!(orders.len(), COUNT.pow(3));
    }

    #[test]
    fn each_number_is_equally_likely_at_each_place() {
        let mut counts = [[0; COUNT]; COUNT];
        for order in every_order() {
            order.into_iter().enumerate().for_each(|(place, number)| counts[place][number] += 1);
        }
        assert!(counts.iter().flatten().all(|&count| count == counts[0][0]));
    }
}
