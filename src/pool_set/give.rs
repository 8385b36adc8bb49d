//! Giving back the blocks of a flush: into the set's own pools, or into other sets' pools (see `remote`).

use super::Inside;
use crate::base::config::{INBOX_KNOCK_POOLS, WORD_BITS};
use crate::base::fatal::{Impossible, impossible};
use crate::base::kind::Kind;
use crate::base::size_class::{Class, Locator, Quotient};
use crate::heap::Heap;
use crate::heap::arena::PoolRef;
use crate::heap::arena::Tag;
use crate::heap::arena_map::Near;
use crate::heap::pool::Slot;
use crate::heap::set::{tag_class, tag_set};
use crate::protocols::remote::Arrival;
use crate::sync::Ordering;

impl Inside<'_> {
    /// Frees the blocks in `slots`, all of `class`, into their pools. Aborts if one is impossible.
    ///
    /// Neighbours in `slots` that share a bitmap word are freed together. These are often many, because programs free
    /// in the order of their allocations, or in the reverse order.
    #[cfg_attr(target_os = "linux", unsafe(link_section = ".text_pymalloc"))]
    pub(crate) fn give<K: Kind>(&mut self, class: Class<K>, slots: &[Slot]) {
        // Blocks that prove to be another set's are added again.
        self.account_home(slots.len() as u32, class);
        let locator = class.locator();
        let mut rest = slots;
        // Relaxed (all loads of slots): they are read by their thread, or under the door.
        let mut near = Near::new(&self.heap.map);
        while let [first, others @ ..] = rest {
            let address = first.load(Ordering::Relaxed).addr();
            rest = others;
            if let [next, behind @ ..] = others {
                let next = next.load(Ordering::Relaxed).addr();
                if locator.may_share_word(address, next) {
                    rest = self.give_neighbours(class, &mut near, address, others);
                    continue;
                }
                // `next` is freed alone, even if its own neighbours follow. So where there are no neighbours, half as
                // many comparisons suffice.
                self.give_alone(class, locator, &mut near, next);
                rest = behind;
            }
            self.give_alone(class, locator, &mut near, address);
        }
        self.sweep_if_due();
    }

    /// The pool and the number of the block at `address`.
    #[inline(always)]
    fn locate<K: Kind>(
        &self,
        class: Class<K>,
        locator: Locator<K>,
        near: &mut Near<'_>,
        address: usize,
    ) -> (PoolRef, usize) {
        let offset = address & (class.pool_bytes() - 1);
        // The first of several pools has the descriptor. (A small class has single pools: nothing to be subtracted.)
        let start = if K::IS_SMALL { address } else { address - offset };
        let Some(place) = near.pool_of(start) else { self.refuse(class, address, false) };
        let Some(number) = locator.block_at(offset) else { self.refuse(class, address, false) };
        (place, number)
    }

    /// Frees the block at `address`.
    #[inline(always)]
    fn give_alone<K: Kind>(&mut self, class: Class<K>, locator: Locator<K>, near: &mut Near<'_>, address: usize) {
        let (place, number) = self.locate(class, locator, near, address);
        // Relaxed: as in `give_neighbours`.
        let tag = place.tag().load(Ordering::Relaxed);
        if tag != self.set.tag(class) {
            return self.give_remote(class, place, number / WORD_BITS, 1 << (number % WORD_BITS), 1, tag);
        }
        let pool = place.pool();
        match pool.bring_one_home(number) {
            Ok(was_full) => self.relink(pool, class, was_full),
            Err(twice) => self.refuse_twice(pool, class, twice),
        }
    }

    /// Frees the block at `address` and the first of `others` that share its word; returns the rest.
    #[inline(never)]
    #[cfg_attr(target_os = "linux", unsafe(link_section = ".text_pymalloc"))]
    fn give_neighbours<'slots, K: Kind>(
        &mut self,
        class: Class<K>,
        near: &mut Near<'_>,
        address: usize,
        others: &'slots [Slot],
    ) -> &'slots [Slot] {
        let locator = class.locator();
        let (place, number) = self.locate(class, locator, near, address);
        let (word, first) = (number / WORD_BITS, 1 << (number % WORD_BITS));
        let range = locator.word_range(address & !(class.pool_bytes() - 1), word);
        let (mut mask, mut joined) = (first, Quotient::EXACT);
        let mut rest = others;
        // The hottest loop of a flush: checks that can be made once for all blocks come after it.
        while let [slot, behind @ ..] = rest
            && let Some(quotient) = locator.quotient_in(range, slot.load(Ordering::Relaxed).addr())
        {
            mask |= quotient.bit();
            joined = joined.join(quotient);
            rest = behind;
        }
        let blocks = (others.len() - rest.len()) as u32 + 1;
        if !joined.is_exact() || mask.count_ones() != blocks {
            self.blame(class, first, others);
        }
        // Relaxed: the tag was stored before the blocks left their pool, or by this set under its door. A new owner's
        // store may race with this load, but changes neither the class nor whether the pool is ours.
        let tag = place.tag().load(Ordering::Relaxed);
        if tag == self.set.tag(class) {
            let pool = place.pool();
            match pool.bring_home(word, mask, blocks) {
                Ok(was_full) => self.relink(pool, class, was_full),
                Err(twice) => self.refuse_twice(pool, class, twice),
            }
        } else {
            self.give_remote(class, place, word, mask, blocks, tag);
        }
        rest
    }

    /// Finds the first of `slots` that is no block's start, or is in the group already, and aborts.
    #[cold]
    #[inline(never)]
    fn blame<K: Kind>(&self, class: Class<K>, first: u64, slots: &[Slot]) -> ! {
        let mut mask = first;
        for slot in slots {
            let address = slot.load(Ordering::Relaxed).addr();
            let bit = class.block_at(address & (class.pool_bytes() - 1)).map_or(0, |number| 1 << (number % WORD_BITS));
            if bit == 0 || mask & bit != 0 {
                self.refuse(class, address, bit != 0);
            }
            mask |= bit;
        }
        impossible(Impossible::NoBlockStart, 0, class.block_bytes())
    }

    /// Frees blocks whose pool belongs to another set (see `remote`); `tag` is the pool's tag.
    #[inline(never)]
    #[cfg_attr(target_os = "linux", unsafe(link_section = ".text_pymalloc"))]
    fn give_remote<K: Kind>(&mut self, class: Class<K>, pool: PoolRef, word: usize, mask: u64, blocks: u32, tag: Tag) {
        let is_of_class = tag_class(tag) == Some(class) && !tag.is_null();
        if !is_of_class || !pool.remote_word(word).free(mask) {
            let number = word * WORD_BITS + mask.trailing_zeros() as usize;
            self.refuse(class, pool.start().addr() + number * class.block_bytes(), is_of_class);
        }
        // `give` counted them as home.
        self.account_away(blocks, class);
        let remote = pool.remote();
        match remote.arrive(blocks) {
            Arrival::First => {
                // Relaxed: stable while the count is not 0; `arrive` acquired the last change.
                let Some(owner) = tag_set(pool.tag().load(Ordering::Relaxed)) else {
                    return;
                };
                // SAFETY: sets are never unmapped.
                let owner = unsafe { owner.as_ref() };
                // SAFETY: the first arrival is the one that pushes, onto the inbox of the pool's owner.
                let pushes = unsafe { owner.inbox::<K>().push(remote.into(), pool.home()) };
                if pushes >= INBOX_KNOCK_POOLS / class.pool_pools() as u32 {
                    owner.knock(self.heap);
                }
            }
            Arrival::Later(outstanding) => {
                // The pool must not be touched any more. If half of it waits to be collected, its owner may be asleep.
                // `tag` may name an earlier owner, which does no harm: sets are immortal, and collecting for one is
                // always allowed.
                let half = class.pool_blocks() as u32 / 2;
                if outstanding >= half
                    && outstanding - blocks < half
                    && let Some(owner) = tag_set(tag)
                {
                    // SAFETY: sets are never unmapped.
                    unsafe { owner.as_ref() }.knock(self.heap);
                }
            }
        }
    }

    /// Aborts if one of the blocks in `slots`, which stay in a cache, is there twice, or is home, too.
    pub(crate) fn check_away<K: Kind>(&self, class: Class<K>, slots: &[Slot]) {
        let mut near = Near::new(&self.heap.map);
        for (index, slot) in slots.iter().enumerate() {
            // Relaxed (both): as in `give`.
            let address = slot.load(Ordering::Relaxed).addr();
            let before = slots.get(..index).unwrap_or_default();
            let (place, number) = self.locate(class, class.locator(), &mut near, address);
            let (word, mask) = (number / WORD_BITS, 1 << (number % WORD_BITS));
            // Relaxed: as in `give_neighbours`.
            let is_home = match place.tag().load(Ordering::Relaxed) == self.set.tag(class) {
                true => place.pool().is_free(word, mask),
                false => place.remote_word(word).peek() & mask != 0,
            };
            if is_home || before.iter().any(|other| other.load(Ordering::Relaxed).addr() == address) {
                self.refuse(class, address, true);
            }
        }
    }

    /// Aborts, and says what is impossible about `address` as a block of `class`.
    #[cold]
    #[inline(never)]
    fn refuse<K: Kind>(&self, class: Class<K>, address: usize, is_twice: bool) -> ! {
        let what = match is_twice {
            true => Impossible::AlreadyFree,
            false => misplaced(self.heap, class, address).unwrap_or(Impossible::NoBlockStart),
        };
        impossible(what, address, class.block_bytes())
    }
}

/// Why no block of `class` can be around `address`; `None` if a pool of the class is there.
pub(crate) fn misplaced<K: Kind>(heap: &Heap, class: Class<K>, address: usize) -> Option<Impossible> {
    let Some(pool) = heap.map.pool_of(address) else { return Some(Impossible::NoArena) };
    // Relaxed: only to choose the message.
    let tag = pool.tag().load(Ordering::Relaxed);
    if tag.is_null() {
        Some(Impossible::NoPool)
    } else if tag_class(tag) != Some(class) {
        Some(Impossible::OtherClass)
    } else {
        None
    }
}
