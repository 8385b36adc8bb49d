//! Random choice: a generator a thread, and the order of a refill.
//!
//! The generator is a multiplicative congruential one modulo 2^64 with an added constant (Knuth's MMIX constants), of
//! which the highest bits are used. It is seeded with 64 bits from the kernel when a thread gets its cache, and again in a
//! forked child. It is cheap, and *not* cryptographic: who sees some dozens of addresses in a row can work its state out.
//! Against a bug, and against an attacker who does not see addresses, it serves.

use core::cell::Cell;

use crate::os;
use crate::pool_set::Slot;
use crate::sync::Ordering;

/// A thread's generator. Zeroed memory is a valid value, to be seeded.
pub(crate) struct Random(Cell<u64>);

impl Random {
    pub(crate) const fn new() -> Self {
        Self(Cell::new(0))
    }

    /// Starts anew from a number of the kernel's.
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

    /// A number below `limit`, which is at most 2^32; all are equally likely but for one part in 2^32 / `limit`.
    fn below(&self, limit: usize) -> usize {
        (self.bits::<32>() * limit) >> 32
    }

    /// Puts what the slots hold in random order, each as likely as another (Fisher and Yates).
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
}
