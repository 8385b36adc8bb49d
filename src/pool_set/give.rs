//! Giving blocks back, from a flush: into the set's own pools, or into those of others (see `remote`).

use core::slice::Iter;

use super::{Inside, PoolSet, Slot, Tag, tag_class, tag_set};
use crate::arena::PoolRef;
use crate::config::{INBOX_KNOCK_POOLS, POOL_BYTES, POOL_SHIFT, WORD_BITS};
use crate::fatal::{Impossible, impossible};
use crate::remote::Arrival;
use crate::size_class::{Locator, Quotient, SizeClass};
use crate::sync::Ordering;

/// Blocks of one word of one pool's bitmap, gathered by a flush to be freed together.
struct Group {
    pool: PoolRef,
    /// The pool's address, in pools.
    key: usize,
    word: usize,
    mask: u64,
    /// Bits set in `mask`.
    blocks: u32,
}

impl Inside<'_> {
    /// Frees the blocks in `slots`, all of `class`, into their pools. Aborts on an impossible one.
    ///
    /// Neighbours in `slots` that share a bitmap word are freed together: often many, because programs free in the
    /// order in which they allocated, or against it.
    pub(crate) fn give(&mut self, class: SizeClass, slots: &[Slot]) {
        let locator = class.locator();
        let mut rest = slots.iter();
        // Relaxed (all loads of slots): they are read by their thread, or under the door.
        while let Some(first) = rest.next() {
            let address = first.load(Ordering::Relaxed).addr();
            let mut group = self.group_of(class, locator, address);
            if let Some(next) = rest.as_slice().first()
                && locator.may_share_word(address, next.load(Ordering::Relaxed).addr())
            {
                self.gather(class, locator, &mut group, &mut rest);
            }
            self.give_group(class, &group);
        }
        self.sweep_if_due();
    }

    /// The group that begins with the block at `address`.
    #[inline(always)]
    fn group_of(&self, class: SizeClass, locator: Locator, address: usize) -> Group {
        let number = locator.block_at(address & (POOL_BYTES - 1));
        let (Some(number), Some(pool)) = (number, self.heap.map.pool_of(address)) else {
            self.refuse(class, address, false)
        };
        Group { pool, key: address >> POOL_SHIFT, word: number / WORD_BITS, mask: 1 << (number % WORD_BITS), blocks: 1 }
    }

    /// Adds the blocks at the front of `rest` to the group, as long as they share its word.
    #[inline]
    fn gather(&self, class: SizeClass, locator: Locator, group: &mut Group, rest: &mut Iter<'_, Slot>) {
        let range = locator.word_range(group.key << POOL_SHIFT, group.word);
        let slots = rest.as_slice();
        let (mut mask, mut twice, mut joined) = (group.mask, 0, Quotient::EXACT);
        // The hottest loop of a flush: what can be checked for all at once is.
        while let Some(slot) = rest.as_slice().first()
            && let Some(quotient) = locator.quotient_in(range, slot.load(Ordering::Relaxed).addr())
        {
            let bit = quotient.bit();
            joined = joined.join(quotient);
            twice |= mask & bit;
            mask |= bit;
            rest.next();
        }
        if !joined.is_exact() || twice != 0 {
            self.blame(class, group, slots);
        }
        group.mask = mask;
        group.blocks += (slots.len() - rest.len()) as u32;
    }

    /// Finds the first of `slots` that is no block's start, or is in the group already, and aborts.
    #[cold]
    #[inline(never)]
    fn blame(&self, class: SizeClass, group: &Group, slots: &[Slot]) -> ! {
        let mut mask = group.mask;
        for slot in slots {
            let address = slot.load(Ordering::Relaxed).addr();
            let bit = class.block_at(address & (POOL_BYTES - 1)).map_or(0, |number| 1 << (number % WORD_BITS));
            if bit == 0 || mask & bit != 0 {
                self.refuse(class, address, bit != 0);
            }
            mask |= bit;
        }
        impossible(Impossible::NoBlockStart, 0, class.block_bytes())
    }

    #[inline]
    fn give_group(&mut self, class: SizeClass, group: &Group) {
        // Relaxed: the tag was stored before the blocks left their pool, or by this set under its door; a new
        // owner's store, which may race with this load, changes neither the class nor whether it is ours.
        let tag = group.pool.tag().load(Ordering::Relaxed);
        if tag == self.set.tag(class) {
            self.give_local(class, group);
        } else if tag_class(tag) == Some(class) && !tag.is_null() {
            self.give_remote(class, group, tag);
        } else {
            self.refuse(class, self.address_of(class, group, group.mask), false);
        }
    }

    fn address_of(&self, class: SizeClass, group: &Group, mask: u64) -> usize {
        let number = group.word * WORD_BITS + mask.trailing_zeros() as usize;
        (group.key << POOL_SHIFT) + number * class.block_bytes()
    }

    #[inline]
    fn give_local(&mut self, class: SizeClass, group: &Group) {
        let pool = group.pool.pool();
        self.put_back(pool, class, group.word, group.mask);
        self.count_home(pool, class, group.blocks);
        self.relink(pool, class);
    }

    /// Frees blocks of another set's pool (see `remote`).
    fn give_remote(&mut self, class: SizeClass, group: &Group, tag: Tag) {
        let blocks = group.blocks;
        if !group.pool.remote_word(group.word).free(group.mask) {
            let address = self.address_of(class, group, group.mask);
            impossible(Impossible::AlreadyFree, address, class.block_bytes());
        }
        let remote = group.pool.remote();
        // SAFETY: blocks of ours are still counted as used, so the pool is mapped.
        match unsafe { remote.as_ref() }.arrive(blocks) {
            Arrival::First => {
                // Relaxed: stable while the count is not 0; `arrive` acquired the last change.
                let Some(owner) = tag_set(group.pool.tag().load(Ordering::Relaxed)) else {
                    return;
                };
                // SAFETY: sets are never unmapped.
                let owner = unsafe { owner.as_ref() };
                // SAFETY: the first arrival is the party bound to push, onto the inbox of the pool's owner.
                let pushes = unsafe { owner.inbox.push(remote, group.pool.arena().cast()) };
                if pushes >= INBOX_KNOCK_POOLS {
                    self.knock(owner);
                }
            }
            Arrival::Later(outstanding) => {
                // The pool must not be touched any more. Half of it waits: its owner may be asleep. Who owned it
                // before will do: sets are immortal, and collecting for one is always allowed.
                let half = class.pool_blocks() as u32 / 2;
                if outstanding >= half
                    && outstanding - blocks < half
                    && let Some(owner) = tag_set(tag)
                {
                    // SAFETY: sets are never unmapped.
                    self.knock(unsafe { owner.as_ref() });
                }
            }
        }
    }

    /// Collects for another set, whose thread does not come, unless somebody is inside it.
    #[cold]
    fn knock(&self, other: &PoolSet) {
        other.try_enter(self.heap, |other| other.collect());
    }

    /// Says what is impossible about `address` as a block of `class`, and aborts.
    #[cold]
    #[inline(never)]
    fn refuse(&self, class: SizeClass, address: usize, is_twice: bool) -> ! {
        let what = match self.heap.map.pool_of(address) {
            _ if is_twice => Impossible::AlreadyFree,
            None => Impossible::NoArena,
            Some(pool) => {
                // Relaxed: only to choose the message.
                let tag = pool.tag().load(Ordering::Relaxed);
                if tag.is_null() {
                    Impossible::NoPool
                } else if tag_class(tag) != Some(class) {
                    Impossible::OtherClass
                } else {
                    Impossible::NoBlockStart
                }
            }
        };
        impossible(what, address, class.block_bytes())
    }
}
