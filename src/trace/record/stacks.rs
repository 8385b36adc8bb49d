//! Call stacks, each kept once.
//!
//! # Protocol
//! As in `blocks`: shards by hash, under locks that come last in the lock order. A stack stays until its session ends.

use core::sync::atomic::{AtomicU32, Ordering};

use super::memory::Mapped;
use crate::protocols::lock::Lock;

const SHARD_BITS: u32 = 4;
const SHARDS: usize = 1 << SHARD_BITS;
/// Slots of a shard's first index.
const FIRST_SLOTS: usize = 1024;

/// Names a stack of the session.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(in crate::trace) struct StackId(u32);

impl StackId {
    pub(in crate::trace) const BITS: u32 = 24;
    /// Stands for the tracer itself.
    pub(in crate::trace) const TRACER: Self = Self((1 << Self::BITS) - 1);
    /// Stands for a stack that there was no memory for.
    pub(in crate::trace) const UNKNOWN: Self = Self((1 << Self::BITS) - 2);
    /// Stacks of a shard; the last ones stand for the two above.
    const PER_SHARD: usize = (1 << (Self::BITS - SHARD_BITS)) - 1;

    pub(in crate::trace) const fn number(self) -> u32 {
        self.0
    }

    /// From the lower bits of a number.
    pub(in crate::trace) const fn from_number(number: u32) -> Self {
        Self(number & ((1 << Self::BITS) - 1))
    }

    const fn new(shard: usize, index: usize) -> Self {
        Self((index << SHARD_BITS | shard) as u32)
    }
}

/// Where a stack's return addresses are.
#[derive(Clone, Copy)]
struct Stack {
    hash: u64,
    start: usize,
    len: usize,
}

struct Shard {
    session: u32,
    /// Open addressing: an index into `stacks` plus 1, or 0.
    slots: Mapped<u32>,
    stacks: Mapped<Stack>,
    frames: Mapped<usize>,
}

/// On a cache line of its own.
#[repr(align(64))]
struct Padded(Lock<Shard>);

static STACKS: [Padded; SHARDS] = [const {
    Padded(Lock::new(Shard { session: 0, slots: Mapped::new(), stacks: Mapped::new(), frames: Mapped::new() }))
}; SHARDS];

/// Stacks that there was no memory for.
static LOST: AtomicU32 = AtomicU32::new(0);

/// Calls `array` with each of the tables' arrays (first address, bytes).
///
/// # Safety
/// After [`acquire_all`], on the same thread or its copy.
#[cfg(feature = "graph")]
pub(in crate::trace) unsafe fn each_held_array(mut array: impl FnMut(usize, usize)) {
    for shard in &STACKS {
        // SAFETY: the caller holds the lock.
        unsafe {
            shard.0.with_held(|shard| {
                array(shard.slots.as_ptr().addr(), size_of_val(&*shard.slots));
                array(shard.stacks.as_ptr().addr(), size_of_val(&*shard.stacks));
                array(shard.frames.as_ptr().addr(), size_of_val(&*shard.frames));
            });
        }
    }
}

/// The stack with these return addresses, which is kept from now on; [`StackId::UNKNOWN`] if there is no memory for it.
pub(in crate::trace) fn intern(session: u32, frames: &[usize]) -> StackId {
    let hash = hash(frames);
    let shard = (hash >> (64 - SHARD_BITS)) as usize;
    STACKS[shard].0.lock().with(|state| {
        if state.session != session {
            // The block's insertion will be refused, too.
            return StackId::UNKNOWN;
        }
        match state.intern(hash, frames) {
            Some(index) => StackId::new(shard, index),
            None => {
                // Relaxed: a count.
                LOST.fetch_add(1, Ordering::Relaxed);
                StackId::UNKNOWN
            }
        }
    })
}

fn hash(frames: &[usize]) -> u64 {
    let hash = frames.iter().fold(frames.len() as u64, |hash, &frame| {
        (hash.rotate_left(5) ^ frame as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)
    });
    // The upper bits choose the shard, and the lower ones the slot. The shift makes both depend on all frames.
    hash ^ (hash >> 29)
}

impl Shard {
    fn intern(&mut self, hash: u64, frames: &[usize]) -> Option<usize> {
        if (self.stacks.len() + 1) * 4 > self.slots.len() * 3 {
            self.grow()?;
        }
        let mask = self.slots.len() - 1;
        let mut place = hash as usize & mask;
        while let Some(index) = self.slots[place].checked_sub(1) {
            let stack = self.stacks[index as usize];
            if stack.hash == hash && self.frames_of(stack) == frames {
                return Some(index as usize);
            }
            place = (place + 1) & mask;
        }
        let index = self.stacks.len();
        if index >= StackId::PER_SHARD {
            return None;
        }
        let stack = Stack { hash, start: self.frames.len(), len: frames.len() };
        self.frames.extend(frames)?;
        self.stacks.push(stack)?;
        self.slots[place] = index as u32 + 1;
        Some(index)
    }

    fn frames_of(&self, stack: Stack) -> &[usize] {
        self.frames.get(stack.start..stack.start + stack.len).unwrap_or_default()
    }

    fn grow(&mut self) -> Option<()> {
        let mut slots = Mapped::<u32>::zeroed((self.slots.len() * 2).max(FIRST_SLOTS))?;
        let mask = slots.len() - 1;
        for (index, stack) in self.stacks.iter().enumerate() {
            let mut place = stack.hash as usize & mask;
            while slots[place] != 0 {
                place = (place + 1) & mask;
            }
            slots[place] = index as u32 + 1;
        }
        self.slots = slots;
        Some(())
    }
}

/// Forgets all stacks, for a session (0 for none).
pub(in crate::trace) fn begin(session: u32) {
    for shard in &STACKS {
        shard.0.lock().with(|shard| {
            *shard = Shard { session, slots: Mapped::new(), stacks: Mapped::new(), frames: Mapped::new() };
        });
    }
    // Relaxed: a count.
    LOST.store(0, Ordering::Relaxed);
}

/// Copies the return addresses of a stack into `frames`, innermost first, and returns their number.
pub(in crate::trace) fn copy(id: StackId, frames: &mut [usize]) -> usize {
    let (shard, index) = (id.0 as usize & (SHARDS - 1), id.0 as usize >> SHARD_BITS);
    STACKS[shard].0.lock().with(|shard| {
        let Some(&stack) = shard.stacks.get(index) else { return 0 };
        let len = stack.len.min(frames.len());
        frames[..len].copy_from_slice(&shard.frames_of(stack)[..len]);
        len
    })
}

/// Stacks that there was no memory for.
pub(in crate::trace) fn lost() -> u32 {
    // Relaxed: a count.
    LOST.load(Ordering::Relaxed)
}

/// Takes all shard locks, for a fork.
pub(in crate::trace) fn acquire_all() {
    for shard in &STACKS {
        let _acquired = shard.0.acquire();
    }
}

/// Frees all shard locks.
///
/// # Safety
/// After [`acquire_all`], on the same thread or in its forked child.
pub(in crate::trace) unsafe fn release_all() {
    for shard in &STACKS {
        // SAFETY: the caller took them.
        unsafe { shard.0.release() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_is_kept_once_and_comes_back_whole() {
        let mut shard = Shard { session: 1, slots: Mapped::new(), stacks: Mapped::new(), frames: Mapped::new() };
        let stacks: Vec<Vec<usize>> =
            (0..5000_usize).map(|number| (0..number % 7).map(|frame| number / 7 * 13 + frame).collect()).collect();
        let intern = |shard: &mut Shard, frames: &[usize]| shard.intern(hash(frames), frames).expect("memory");
        let first: Vec<usize> = stacks.iter().map(|frames| intern(&mut shard, frames)).collect();
        let kept = shard.stacks.len();
        let again: Vec<usize> = stacks.iter().map(|frames| intern(&mut shard, frames)).collect();
        assert_eq!(first, again);
        assert_eq!(shard.stacks.len(), kept);
        for (frames, &index) in stacks.iter().zip(&first) {
            assert_eq!(shard.frames_of(shard.stacks[index]), frames.as_slice());
        }
        let different: std::collections::HashSet<&Vec<usize>> = stacks.iter().collect();
        assert_eq!(kept, different.len());
    }
}
