//! A pool set: the pools that belong to one thread, and all that is done to them.
//!
//! A set is immortal: once made, it is never unmapped. Its thread owns it while it lives; when the thread ends,
//! the set is *parked* with all its pools, and *adopted* whole by a thread that starts later. Until then, living
//! threads *steal* its partly free pools one by one when they would need new ones.
//!
//! # Call tree
//! ```text
//! take                         blocks of a class, for a refill
//! ├─ collect                   pools that other threads freed into
//! ├─ steal                     partly free pools of parked sets
//! ├─ open_empty                an empty pool of the set
//! └─ Heap::take_pool           a pool of the fullest arena, or of a new one
//! give                         blocks of a class, from a flush
//! ├─ give_local                own pools: set bits; empty pools are kept or returned
//! └─ give_remote               pools of other sets: remote bits, count, inbox
//!    └─ knock                  collect for an owner that does not come
//! sweep                        few blocks left: purge the free parts of partial pools
//! ```
//!
//! # Invariants
//! - *Door*: the lists and all pools of a set are touched only by who holds its door.
//! - *Lists*: a pool that the set owns is in the list of its class if and only if it is partial, and in the list of
//!   empty pools if and only if it is empty; a full pool is in no list.
//! - *Tag*: the tag of every pool that the set owns is the set's address plus the number of the pool's class. It
//!   changes only while the pool has no block outside, or by who claimed it (see `remote`).

use core::cell::Cell;
use core::ptr::{self, NonNull};
use core::slice::Iter;

use crate::arena::{PoolRef, Tag};
use crate::config::{
    BITMAP_WORDS_MAX, CACHE_LINE_BYTES, CLASS_COUNT, EMPTY_POOLS_BUDGET, INBOX_KNOCK_POOLS, POOL_BYTES, POOL_SHIFT,
    SET_EMPTY_POOLS_MAX, SET_EMPTY_POOLS_MIN, STEAL_SETS_MAX, SWEEP_AGAIN, SWEEP_MIN_BYTES, SWEEP_SHARE, WORD_BITS,
};
use crate::fatal::{Impossible, impossible};
use crate::heap::Heap;
use crate::lock::Lock;
pub(crate) use crate::pool::Slot;
use crate::pool::{AlreadyFree, Block, Pool, PoolList, State};
use crate::remote::{Arrival, Inbox};
use crate::size_class::{Locator, Quotient, SizeClass};
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// The pools of one thread, or of a thread that ended.
#[repr(C, align(64))]
pub(crate) struct PoolSet {
    inbox: Inbox,
    /// The next older set of the heap; never changes once registered.
    pub(crate) next_registered: Cell<*const PoolSet>,
    /// The next parked set. Heap lock.
    pub(crate) next_parked: Cell<*const PoolSet>,
    /// 1 from parking to adoption, else 0; written under the door, read elsewhere as a hint.
    parked: AtomicU32,
    /// A hint for thieves: the classes of which a parked set has partial pools.
    stealable: AtomicU64,
    pub(crate) door: Lock<Pools>,
}

// SAFETY: `next_registered` is written once before the set is published; `next_parked` is under the heap's lock;
// the rest is atomic or under the door.
unsafe impl Sync for PoolSet {}

/// What the door of a set guards.
pub(crate) struct Pools {
    partial: [PoolList; CLASS_COUNT],
    empty: PoolList,
    empty_count: usize,
    /// Pools that the set owns.
    owned_count: usize,
    /// Bytes of their blocks that are not home.
    used_bytes: usize,
    /// When fewer bytes than these are used, the free parts of partial pools are purged.
    sweep_below_bytes: usize,
}

// SAFETY: plain pointers to metadata that is never unmapped, touched under the door.
unsafe impl Send for Pools {}

/// The low bits of a tag.
const TAG_CLASS: usize = CACHE_LINE_BYTES - 1;

impl PoolSet {
    /// A set without pools, owned by a living thread.
    pub(crate) const fn new() -> Self {
        Self {
            inbox: Inbox::new(),
            next_registered: Cell::new(ptr::null()),
            next_parked: Cell::new(ptr::null()),
            parked: AtomicU32::new(0),
            stealable: AtomicU64::new(0),
            door: Lock::new(Pools {
                partial: [const { PoolList::new() }; CLASS_COUNT],
                empty: PoolList::new(),
                empty_count: 0,
                owned_count: 0,
                used_bytes: 0,
                sweep_below_bytes: 0,
            }),
        }
    }

    /// The tag of this set's pools of `class`.
    #[inline]
    pub(crate) fn tag(&self, class: SizeClass) -> Tag {
        ptr::from_ref(self).cast::<u8>().cast_mut().wrapping_add(class.number())
    }

    /// Opens the door, waiting for it, and runs `body`.
    #[inline]
    pub(crate) fn enter<R>(&self, heap: &Heap, body: impl FnOnce(&mut Inside<'_>) -> R) -> R {
        self.door.lock().with(|pools| body(&mut Inside { heap, set: self, pools }))
    }

    /// Opens the door and runs `body`, unless somebody else is inside.
    pub(crate) fn try_enter<R>(&self, heap: &Heap, body: impl FnOnce(&mut Inside<'_>) -> R) -> Option<R> {
        let mut guard = self.door.try_lock()?;
        Some(guard.with(|pools| body(&mut Inside { heap, set: self, pools })))
    }

    /// Whether the set's thread ended and no other adopted it: sure under the door, else a hint.
    pub(crate) fn is_parked(&self) -> bool {
        // Relaxed: a hint, or ordered by the door.
        self.parked.load(Ordering::Relaxed) != 0
    }

    /// The inbox, for the self-check.
    pub(crate) fn inbox(&self) -> &Inbox {
        &self.inbox
    }
}

/// The class in a tag.
pub(crate) fn tag_class(tag: Tag) -> Option<SizeClass> {
    SizeClass::from_number(tag.addr() & TAG_CLASS)
}

/// The set in a tag.
pub(crate) fn tag_set(tag: Tag) -> Option<NonNull<PoolSet>> {
    NonNull::new(tag.map_addr(|address| address & !TAG_CLASS).cast())
}

impl Pools {
    pub(crate) fn partial(&self, class: SizeClass) -> &PoolList {
        &self.partial[class.number() & (CLASS_COUNT - 1)]
    }

    pub(crate) fn empty(&self) -> &PoolList {
        &self.empty
    }

    pub(crate) fn empty_count(&self) -> usize {
        self.empty_count
    }

    pub(crate) fn owned_count(&self) -> usize {
        self.owned_count
    }

    pub(crate) fn used_bytes(&self) -> usize {
        self.used_bytes
    }
}

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

/// A pool set whose door the thread holds.
pub(crate) struct Inside<'door> {
    heap: &'door Heap,
    set: &'door PoolSet,
    pools: &'door mut Pools,
}

// --- Taking blocks -------------------------------------------------------------------------------------------

impl Inside<'_> {
    /// Fills `slots` from the front with free blocks of `class`; returns how many.
    ///
    /// Fewer than asked for if getting more would take a new pool, none only when there is no memory. The blocks
    /// are such that popping them from the end gives ascending addresses within a pool.
    pub(crate) fn take(&mut self, class: SizeClass, slots: &[Slot]) -> usize {
        // Filled from the back, because blocks come in ascending order.
        let mut rest = slots.iter().rev();
        while rest.len() > 0 {
            let Some(pool) = self.pool_with_free(class, rest.len() == slots.len()) else { break };
            pool.take(&mut rest);
            self.unlink_if_full(pool, class);
        }
        let (rest, taken) = (rest.len(), slots.len() - rest.len());
        if rest > 0 {
            // SAFETY: both inside `slots`, which are cells that nobody reads without the door.
            unsafe { ptr::copy(slots.as_ptr().add(rest), slots.as_ptr().cast_mut(), taken) };
        }
        self.note_taken(taken * class.block_bytes());
        taken
    }

    /// Counts bytes taken, and, when much is in use, says below what a sweep is worth its while.
    fn note_taken(&mut self, bytes: usize) {
        self.pools.used_bytes = self.pools.used_bytes.wrapping_add(bytes);
        let owned_bytes = self.pools.owned_count * POOL_BYTES;
        if owned_bytes >= SWEEP_MIN_BYTES && self.pools.used_bytes > owned_bytes / 4 {
            self.pools.sweep_below_bytes = owned_bytes / SWEEP_SHARE;
        }
    }

    /// Takes one free block of `class`, and tells whether it is known to be zero.
    pub(crate) fn take_one(&mut self, class: SizeClass) -> Option<Block> {
        let pool = self.pool_with_free(class, true)?;
        let block = pool.take_one();
        self.unlink_if_full(pool, class);
        self.note_taken(class.block_bytes());
        block
    }

    #[inline]
    fn unlink_if_full(&self, pool: &Pool, class: SizeClass) {
        if !pool.has_free() {
            self.pools.partial(class).remove(pool);
            pool.set_state(State::Full);
        }
    }

    /// A partial pool of `class`; a new one only if `needed`.
    #[inline]
    fn pool_with_free<'heap>(&mut self, class: SizeClass, needed: bool) -> Option<&'heap Pool> {
        if self.pools.partial(class).is_empty() && !self.find_pool(class, needed) {
            return None;
        }
        // SAFETY: pools live in metadata, which is never unmapped.
        self.pools.partial(class).first().map(|pool| unsafe { &*ptr::from_ref(pool) })
    }

    /// Sees to it that the set has a partial pool of `class`.
    #[cold]
    fn find_pool(&mut self, class: SizeClass, needed: bool) -> bool {
        if !self.set.inbox.is_empty() {
            self.collect();
            if !self.pools.partial(class).is_empty() {
                return true;
            }
        }
        needed
            && (self.steal(class, STEAL_SETS_MAX, false)
                || self.open_empty(class)
                || self.open_new(class, false)
                || self.steal(class, usize::MAX, true)
                || self.open_new(class, true)
                || self.scrape(class))
    }

    /// Makes an empty pool of the set one of `class`.
    fn open_empty(&mut self, class: SizeClass) -> bool {
        let Some(pool) = self.pools.empty.first() else {
            return false;
        };
        // SAFETY: pools live in metadata, which is never unmapped.
        let pool = unsafe { &*ptr::from_ref(pool) };
        self.pools.empty.remove(pool);
        self.pools.empty_count -= 1;
        self.open(pool, class);
        true
    }

    /// Makes a pool of the heap one of the set's, of `class`.
    fn open_new(&mut self, class: SizeClass, may_map: bool) -> bool {
        let Some(pool) = self.heap.take_pool(may_map) else {
            return false;
        };
        self.pools.owned_count += 1;
        self.open(pool.pool(), class);
        true
    }

    fn open(&mut self, pool: &Pool, class: SizeClass) {
        pool.open(class);
        pool.set_state(State::Partial);
        if let Some(place) = self.place_of(pool) {
            // Relaxed: a thread that reads the tag holds a block of the pool, which came to it after this.
            place.tag().store(self.set.tag(class), Ordering::Relaxed);
        }
        self.pools.partial(class).push_last(pool);
    }

    /// The pool's place in its arena.
    fn place_of(&self, pool: &Pool) -> Option<PoolRef> {
        let address = pool.start().addr();
        Some(PoolRef::at_offset(self.heap.map.arena_of(address)?, address))
    }

    /// The last resort before null: whatever other sets can spare.
    fn scrape(&mut self, class: SizeClass) -> bool {
        let own = NonNull::from(self.set);
        for other in self.heap.sets().filter(|&other| other != own) {
            // SAFETY: sets are never unmapped.
            let other = unsafe { other.as_ref() };
            other.try_enter(self.heap, |other| {
                other.collect();
                other.return_empty_pools(0);
            });
        }
        self.open_new(class, true)
    }
}

// --- Giving blocks back --------------------------------------------------------------------------------------

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
        let (Some(number), Some(arena)) = (number, self.heap.map.arena_of(address)) else {
            self.refuse(class, address, false)
        };
        Group {
            pool: PoolRef::at_offset(arena, address),
            key: address >> POOL_SHIFT,
            word: number / WORD_BITS,
            mask: 1 << (number % WORD_BITS),
            blocks: 1,
        }
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
        if let Err(AlreadyFree { block }) = pool.put_back(group.word, group.mask) {
            let address = (group.key << POOL_SHIFT) + block * class.block_bytes();
            impossible(Impossible::AlreadyFree, address, class.block_bytes());
        }
        self.count_home(pool, class, group.blocks);
        self.relink(pool, class);
    }

    #[inline]
    fn count_home(&mut self, pool: &Pool, class: SizeClass, blocks: u32) {
        pool.count_home(blocks);
        self.pools.used_bytes = self.pools.used_bytes.wrapping_sub(blocks as usize * class.block_bytes());
    }

    /// Puts a pool, into which blocks came home, where it belongs now.
    #[inline]
    fn relink(&mut self, pool: &Pool, class: SizeClass) {
        if pool.used() == 0 {
            self.retire(pool, class);
        } else if pool.state() == State::Full {
            pool.set_state(State::Partial);
            self.pools.partial(class).push_last(pool);
        }
    }

    /// Takes a pool whose blocks are all home out of its class.
    #[cold]
    fn retire(&mut self, pool: &Pool, class: SizeClass) {
        if pool.state() == State::Partial {
            self.pools.partial(class).remove(pool);
        }
        pool.set_state(State::Empty);
        self.pools.empty.push_first(pool);
        self.pools.empty_count += 1;
        // The budget is the heap's: many threads keep few each.
        let keep = (EMPTY_POOLS_BUDGET / (self.heap.set_count() + 1)).clamp(SET_EMPTY_POOLS_MIN, SET_EMPTY_POOLS_MAX);
        if self.pools.empty_count > keep {
            self.return_empty_pools(keep / 2);
        }
    }

    /// Gives the set's empty pools back to their arenas, but for `keep` of them.
    pub(crate) fn return_empty_pools(&mut self, keep: usize) {
        if self.pools.empty_count <= keep {
            return;
        }
        let (heap, pools) = (self.heap, &mut *self.pools);
        heap.give_pools(core::iter::from_fn(|| {
            if pools.empty_count <= keep {
                return None;
            }
            // The longest empty first: the others may still be in the CPU's caches.
            let pool = pools.empty.last()?;
            pools.empty.remove(pool);
            pools.empty_count -= 1;
            pools.owned_count -= 1;
            let address = pool.start().addr();
            let place = PoolRef::at_offset(heap.map.arena_of(address)?, address);
            pool.set_state(State::Unused);
            // Relaxed: no block of the pool is outside, so no thread reads the tag.
            place.tag().store(ptr::null_mut(), Ordering::Relaxed);
            Some(place)
        }));
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
        let what = match self.heap.map.arena_of(address) {
            _ if is_twice => Impossible::AlreadyFree,
            None => Impossible::NoArena,
            Some(arena) => {
                // Relaxed: only to choose the message.
                let tag = PoolRef::at_offset(arena, address).tag().load(Ordering::Relaxed);
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

// --- Purging the free parts of partial pools -------------------------------------------------------------------

impl Inside<'_> {
    #[inline]
    fn sweep_if_due(&mut self) {
        if self.pools.used_bytes < self.pools.sweep_below_bytes {
            self.sweep();
        }
    }

    /// Gives the free parts of all partial pools back to the OS.
    ///
    /// What is left of a peak is often scattered over all its pools, so that few are ever empty; CPython keeps such
    /// memory. A sweep is due only when little is left, and again when much less is: so its cost, a look at each
    /// partial pool, is paid for by the frees since the peak.
    #[cold]
    pub(crate) fn sweep(&mut self) {
        self.pools.sweep_below_bytes = self.pools.used_bytes / SWEEP_AGAIN;
        for class in SizeClass::all() {
            for pool in self.pools.partial(class).iter() {
                let parts = pool.purgeable();
                if parts != 0
                    && let Some(place) = self.place_of(pool)
                {
                    pool.add_purged(self.heap.purge_parts(place, parts));
                }
            }
        }
    }
}

// --- Collecting, stealing, parking ---------------------------------------------------------------------------

impl Inside<'_> {
    /// Brings home what other threads freed into the set's pools.
    pub(crate) fn collect(&mut self) {
        // SAFETY: the door is held, and every pool's count is collected below.
        for (remote, home) in unsafe { self.set.inbox.take_all() } {
            let Some(arena) = NonNull::new(home.cast()) else {
                continue;
            };
            // SAFETY: the pusher left the arena of the pool whose remote half it pushed.
            let place = unsafe { PoolRef::from_remote(arena, remote) };
            // SAFETY: mapped while the count is not 0.
            let blocks = unsafe { remote.as_ref() }.collect_count();
            self.collect_pool(place, blocks);
        }
        if self.set.is_parked() {
            // Nobody will come for the empty ones.
            self.return_empty_pools(0);
            self.show_stealable();
        }
        self.sweep_if_due();
    }

    /// Brings home the blocks of one pool, `blocks` by their count.
    fn collect_pool(&mut self, place: PoolRef, blocks: u32) {
        let pool = place.pool();
        let class = pool.class();
        for word in 0..class.bitmap_words().min(BITMAP_WORDS_MAX) {
            let mask = place.remote_word(word).collect();
            if mask != 0
                && let Err(AlreadyFree { block }) = pool.put_back(word, mask)
            {
                let address = pool.start().addr() + block * class.block_bytes();
                impossible(Impossible::AlreadyFree, address, class.block_bytes());
            }
        }
        self.count_home(pool, class, blocks);
        if pool.has_free() {
            self.relink(pool, class);
        }
    }

    /// Takes a partly free pool of `class` from one of the newest `sets_max` sets that is parked; with `any_parked`, looks
    /// into each of them, whatever its hint says: what becomes empty by that goes to its arena.
    #[cold]
    fn steal(&mut self, class: SizeClass, sets_max: usize, any_parked: bool) -> bool {
        let heap = self.heap;
        if heap.parked_count() == 0 {
            return false;
        }
        heap.sets().take(sets_max).any(|other| {
            // SAFETY: sets are never unmapped.
            let other = unsafe { other.as_ref() };
            // Relaxed: a hint; the door is opened only where something may be had.
            let has_class = other.stealable.load(Ordering::Relaxed) & (1 << class.number()) != 0;
            if !other.is_parked() || !(has_class || any_parked || !other.inbox.is_empty()) {
                return false;
            }
            // Our own set is not parked.
            other.try_enter(heap, |other| self.steal_from(other, class)).unwrap_or(false)
        })
    }

    fn steal_from(&mut self, other: &mut Inside<'_>, class: SizeClass) -> bool {
        if !other.set.is_parked() {
            return false;
        }
        other.collect();
        let found = self.steal_partial(other, class);
        other.show_stealable();
        found
    }

    fn steal_partial(&mut self, other: &mut Inside<'_>, class: SizeClass) -> bool {
        // A pool that was freed into since the collection comes back by the inbox: it can't be claimed, leave it.
        let claimed = other.pools.partial(class).iter().find_map(|pool| {
            let place = self.place_of(pool)?;
            // SAFETY: the pool has an owner, so it is mapped.
            unsafe { place.remote().as_ref() }.claim().then_some(place)
        });
        let Some(place) = claimed else { return false };
        let pool = place.pool();
        other.pools.partial(class).remove(pool);
        // Relaxed: published by the Release of `collect_count`.
        place.tag().store(self.set.tag(class), Ordering::Relaxed);
        self.pools.partial(class).push_last(pool);
        self.take_over(other, pool.used() as usize * class.block_bytes());
        // SAFETY: as above.
        let blocks = unsafe { place.remote().as_ref() }.collect_count().wrapping_sub(1);
        self.collect_pool(place, blocks);
        // Unless its last blocks came home just now.
        pool.state() == State::Partial
    }

    /// Moves a pool with so many bytes in use from another set's account to this one's.
    fn take_over(&mut self, other: &mut Inside<'_>, used_bytes: usize) {
        other.pools.owned_count -= 1;
        self.pools.owned_count += 1;
        other.pools.used_bytes = other.pools.used_bytes.wrapping_sub(used_bytes);
        self.pools.used_bytes = self.pools.used_bytes.wrapping_add(used_bytes);
    }

    /// Renews the hint for thieves.
    fn show_stealable(&self) {
        let mut classes = 0;
        if self.set.is_parked() {
            for class in SizeClass::all() {
                classes |= u64::from(!self.pools.partial(class).is_empty()) << class.number();
            }
        }
        // Relaxed: a hint.
        self.set.stealable.store(classes, Ordering::Relaxed);
    }

    /// The set's thread ended: brings home what can be, returns empty pools, and opens the set to thieves.
    pub(crate) fn park(&mut self) {
        // Relaxed: a hint, or ordered by the door.
        self.set.parked.store(1, Ordering::Relaxed);
        self.collect();
    }

    /// A thread took over the set.
    pub(crate) fn adopt(&mut self) {
        // Relaxed: a hint, or ordered by the door.
        self.set.parked.store(0, Ordering::Relaxed);
        self.show_stealable();
    }

    /// Whether the set is parked.
    pub(crate) fn is_parked(&self) -> bool {
        self.set.is_parked()
    }
}
