//! A small heap: pool sets with doors and inboxes, pools with two bitmap words, and blocks with contents.
//!
//! The remote halves, words, inboxes and doors are the product's. Repeated from `pool_set/`, call by call:
//! `give_remote` ([`World::free`]), `collect` and `collect_pool`, `steal_from` and `steal_partial`
//! ([`World::steal`]), `enter`, `knock`, `stop` with `knock_at_all`, `take` of one block, `park` and `adopt` with the
//! heap's list of parked sets.
//!
//! # What a model can find
//! - *Owner's half*: the bitmap and counts of a pool are a cell of loom's. Loom fails the model if two threads access
//!   it without an order.
//! - *Unmapping* is a write to the cell [`Pool::mapped`], which every access to any part of the descriptor reads in the
//!   same step ([`Pool::touch`]). So loom fails the model if an access may come after the unmapping, and also if an
//!   access comes earlier in time but is not ordered before the unmapping.
//! - *Contents*: each block is a cell, written before each free and after each take.
//! - *Accounts*: see [`World::settle`].
//!
//! Here threads free without holding their own door, which the product's threads do hold. So the models have fewer
//! orders to rely on.

use core::ptr::{self, NonNull};

use loom::sync::atomic::AtomicUsize;
use std::sync::atomic::{AtomicBool, Ordering as StdOrdering};

use crate::lock::Lock;
use crate::remote::{Arrival, Inbox, RemoteHalf, RemoteWord};
use crate::sync::{AtomicU32, Ordering, UnsafeCell};

/// Words of a pool's bitmap.
const WORDS: usize = 2;
/// The tag of a pool that no set owns.
const NOBODY: usize = usize::MAX;

/// One pool: descriptor and blocks.
pub(crate) struct Pool {
    /// Whether the descriptor is mapped. Every access to the descriptor reads it; the unmapping writes it.
    mapped: UnsafeCell<bool>,
    /// Number of the owning set.
    tag: AtomicUsize,
    remote: RemoteHalf,
    words: [RemoteWord; WORDS],
    owned: UnsafeCell<Owned>,
    blocks: Vec<UnsafeCell<u32>>,
}

/// The half of a descriptor that only its owner touches.
struct Owned {
    free: [u64; WORDS],
    used: u32,
}

/// A set of pools; never unmapped.
pub(crate) struct Set {
    pub(crate) inbox: Inbox,
    parked: AtomicU32,
    pub(crate) door: Lock<Lists>,
}

/// What the door of a set guards besides its pools.
#[derive(Default)]
pub(crate) struct Lists {
    /// Numbers of the pools that the set owns.
    pools: Vec<usize>,
}

/// All sets and pools.
pub(crate) struct World {
    pub(crate) sets: Vec<Set>,
    pub(crate) pools: Vec<Pool>,
    /// Parked sets; the heap's lock.
    parked: Lock<Vec<usize>>,
    /// Whether pools are unmapped once all their blocks are home.
    unmaps: bool,
    /// From this many pools in an inbox on, a thread that pushes a pool knocks.
    knocks_from: u32,
    /// Whether a double free was found. Not an atomic of loom's, because it must order nothing.
    double_free_seen: AtomicBool,
}

// SAFETY: loom checks each access to the cells; the rest is atomic or never changes.
unsafe impl Sync for World {}
// SAFETY: it has no data that belongs to one thread.
unsafe impl Send for World {}

/// A block's word and bit; neighbours lie in different words.
fn place_of(block: usize) -> (usize, u64) {
    (block % WORDS, 1 << (block / WORDS))
}

impl Pool {
    fn new(owner: usize, blocks: usize) -> Self {
        Self {
            mapped: UnsafeCell::new(true),
            tag: AtomicUsize::new(owner),
            remote: RemoteHalf::new(),
            words: [RemoteWord::new(), RemoteWord::new()],
            owned: UnsafeCell::new(Owned { free: [0; WORDS], used: blocks as u32 }),
            blocks: (0..blocks).map(|_| UnsafeCell::new(0)).collect(),
        }
    }

    /// Runs `body`, one access to the descriptor, on the descriptor of a pool that must be mapped.
    fn touch<R>(&self, body: impl FnOnce(&Self) -> R) -> R {
        self.mapped.with(|mapped| {
            // SAFETY: loom fails the model if the read races with the unmapping.
            assert!(unsafe { *mapped }, "a pool's descriptor was touched after it was unmapped");
            body(self)
        })
    }

    fn owned<R>(&self, body: impl FnOnce(&mut Owned) -> R) -> R {
        // SAFETY: loom fails the model if two threads are here without an order.
        self.touch(|pool| pool.owned.with_mut(|owned| body(unsafe { &mut *owned })))
    }

    /// The program's use of a block that it holds.
    fn use_block(&self, block: usize) {
        // SAFETY: loom fails the model if two threads use the block without an order.
        self.blocks[block].with_mut(|contents| unsafe { *contents += 1 });
    }
}

impl World {
    /// A heap of `owners.len()` pools of `blocks` blocks, all in use by the program. Pool `i` belongs to set
    /// `owners[i]`.
    pub(crate) fn new(sets: usize, owners: &[usize], blocks: usize) -> Self {
        let set = |number| Set {
            inbox: Inbox::new(),
            parked: AtomicU32::new(0),
            door: Lock::new(Lists { pools: (0..owners.len()).filter(|&pool| owners[pool] == number).collect() }),
        };
        Self {
            sets: (0..sets).map(set).collect(),
            pools: owners.iter().map(|&owner| Pool::new(owner, blocks)).collect(),
            parked: Lock::new(Vec::new()),
            unmaps: false,
            knocks_from: u32::MAX,
            double_free_seen: AtomicBool::new(false),
        }
    }

    /// Makes the heap unmap pools as soon as all their blocks are home.
    pub(crate) fn unmapping(self) -> Self {
        Self { unmaps: true, ..self }
    }

    /// Makes threads that free knock at inboxes of this many pools.
    pub(crate) fn knocking_from(self, pools: u32) -> Self {
        Self { knocks_from: pools, ..self }
    }

    /// Whether a double free was found.
    pub(crate) fn double_free_seen(&self) -> bool {
        self.double_free_seen.load(StdOrdering::Relaxed)
    }

    /// `Inside::give_remote`, after the program's last use of the block.
    pub(crate) fn free(&self, pool: usize, block: usize) {
        self.pools[pool].use_block(block);
        self.free_unused(pool, block);
    }

    /// [`free`](Self::free) without the last use: for a program that frees twice, which is a race in the program.
    pub(crate) fn free_unused(&self, pool: usize, block: usize) {
        let (word, mask) = place_of(block);
        self.free_mask(pool, word, mask);
    }

    /// Frees all blocks of a word at once, as a flush does.
    pub(crate) fn free_group(&self, pool: usize, blocks: &[usize]) {
        let mut group = 0;
        for &block in blocks {
            self.pools[pool].use_block(block);
            group |= place_of(block).1;
        }
        self.free_mask(pool, place_of(blocks[0]).0, group);
    }

    fn free_mask(&self, pool: usize, word: usize, mask: u64) {
        let pool = &self.pools[pool];
        if !pool.touch(|pool| pool.words[word].free(mask)) {
            self.double_free_seen.store(true, StdOrdering::Relaxed);
            return;
        }
        match pool.touch(|pool| pool.remote.arrive(mask.count_ones())) {
            Arrival::First => {
                // Relaxed: as in the product.
                let owner = pool.touch(|pool| pool.tag.load(Ordering::Relaxed));
                // `push` touches the descriptor up to its exchange, with no release before that, so the read of
                // `mapped` just above stands for these accesses, too.
                // SAFETY: the first arrival pushes the pool onto the inbox of the pool's owner.
                let pushes =
                    unsafe { self.sets[owner].inbox.push(NonNull::from(&pool.remote), NonNull::from(pool).cast()) };
                if pushes >= self.knocks_from {
                    self.knock(owner);
                }
            }
            // This thread does not touch the pool any more.
            Arrival::Later(_) => {}
        }
    }

    /// `PoolSet::enter`.
    pub(crate) fn enter(&self, set: usize, body: impl FnOnce(&mut Lists)) {
        let mut guard = self.sets[set].door.lock();
        guard.with(body);
        if guard.leave() {
            self.knock(set);
        }
    }

    /// Takes the door of `set` and collects the remote frees into its pools.
    pub(crate) fn enter_and_collect(&self, set: usize) {
        self.enter(set, |lists| self.collect(set, lists));
    }

    /// `PoolSet::knock`.
    pub(crate) fn knock(&self, set: usize) {
        while let Some(mut guard) = self.sets[set].door.lock_or_knock() {
            guard.with(|lists| self.collect(set, lists));
            if !guard.leave() {
                return;
            }
        }
    }

    /// `Heap::stop`, the drop of its result, and `knock_at_all`.
    pub(crate) fn stop_and_go_on(&self) {
        self.sets.iter().for_each(|set| assert!(set.door.acquire()));
        // SAFETY: acquired just above; there is no guard.
        let knocked = self.sets.iter().map(|set| unsafe { set.door.leave() }).fold(false, |any, knocked| any | knocked);
        if knocked {
            (0..self.sets.len()).filter(|&set| !self.sets[set].inbox.is_empty()).for_each(|set| self.knock(set));
        }
    }

    /// Pools in the inbox of `set`, at rest.
    pub(crate) fn pools_waiting(&self, set: usize) -> usize {
        // SAFETY: all threads ended.
        unsafe { self.sets[set].inbox.peek_all() }.count()
    }

    /// `Inside::collect`.
    pub(crate) fn collect(&self, set: usize, lists: &mut Lists) {
        // SAFETY: the door is held, and every pool's count is collected below.
        for (remote, home) in unsafe { self.sets[set].inbox.take_all() } {
            // SAFETY: what the pusher left, or null if not all of the push was seen.
            let pool = unsafe { home.cast::<Pool>().as_ref() }.expect("a pool came without its home");
            pool.touch(|pool| assert!(ptr::eq(&pool.remote, remote.as_ptr()), "a pool came with another's home"));
            let blocks = pool.touch(|pool| pool.remote.collect_count());
            assert_ne!(blocks, 0, "a pool was in an inbox without blocks outstanding");
            self.collect_pool(pool, blocks, lists);
        }
    }

    /// `Inside::collect_pool`, with the unmapping of an empty pool.
    fn collect_pool(&self, pool: &Pool, blocks: u32, lists: &mut Lists) {
        self.collect_words(pool);
        let used = pool.owned(|owned| {
            owned.used = owned.used.wrapping_sub(blocks);
            owned.used
        });
        if used == 0 && self.unmaps {
            self.unmap(pool, lists);
        }
    }

    fn collect_words(&self, pool: &Pool) {
        for word in 0..WORDS {
            let mask = pool.touch(|pool| pool.words[word].collect());
            pool.owned(|owned| {
                if owned.free[word] & mask != 0 {
                    self.double_free_seen.store(true, StdOrdering::Relaxed);
                }
                owned.free[word] |= mask;
            });
        }
    }

    /// `Inside::return_empty_pools` and `HeapState::unmap_arena`.
    fn unmap(&self, pool: &Pool, lists: &mut Lists) {
        lists.pools.retain(|&listed| !ptr::eq(&self.pools[listed], pool));
        pool.touch(|pool| pool.tag.store(NOBODY, Ordering::Relaxed));
        // SAFETY: loom fails the model if any access to the descriptor is not ordered before this.
        pool.mapped.with_mut(|mapped| unsafe { *mapped = false });
    }

    /// `Inside::take_one` from a pool of `lists`: takes a free block and uses it.
    pub(crate) fn take(&self, lists: &Lists) -> Option<(usize, usize)> {
        lists.pools.iter().find_map(|&number| {
            let pool = &self.pools[number];
            let block = pool.owned(|owned| {
                let free = |&block: &usize| owned.free[place_of(block).0] & place_of(block).1 != 0;
                let block = (0..pool.blocks.len()).find(free)?;
                owned.free[place_of(block).0] &= !place_of(block).1;
                owned.used += 1;
                Some(block)
            })?;
            pool.use_block(block);
            Some((number, block))
        })
    }

    /// `Inside::steal_from` for the holder of the door of `thief`; returns the pool that changed owners.
    pub(crate) fn steal(&self, thief: usize, own: &mut Lists, victim: usize) -> Option<usize> {
        let mut guard = self.sets[victim].door.try_lock()?;
        guard.with(|theirs| {
            // Relaxed: the door makes this exact.
            if self.sets[victim].parked.load(Ordering::Relaxed) == 0 {
                return None;
            }
            self.collect(victim, theirs);
            self.steal_partial(thief, own, theirs)
        })
    }

    /// `Inside::steal_partial`.
    fn steal_partial(&self, thief: usize, own: &mut Lists, theirs: &mut Lists) -> Option<usize> {
        let index = theirs.pools.iter().position(|&number| {
            let pool = &self.pools[number];
            pool.owned(|owned| owned.free != [0; WORDS]) && pool.touch(|pool| pool.remote.claim())
        })?;
        let number = theirs.pools.remove(index);
        let pool = &self.pools[number];
        // Relaxed: as in the product.
        pool.touch(|pool| pool.tag.store(thief, Ordering::Relaxed));
        own.pools.push(number);
        let blocks = pool.touch(|pool| pool.remote.collect_count()).wrapping_sub(1);
        self.collect_pool(pool, blocks, own);
        Some(number)
    }

    /// `ThreadCache::release`: the thread of `set` ends.
    pub(crate) fn park(&self, set: usize) {
        self.sets[set].door.lock().with(|lists| {
            self.collect(set, lists);
            // Relaxed: as in the product.
            self.sets[set].parked.store(1, Ordering::Relaxed);
        });
        self.parked.lock().with(|parked| parked.push(set));
    }

    /// `ThreadCache::acquire`: a thread adopts a parked set, if there is one.
    pub(crate) fn adopt(&self) -> Option<usize> {
        let set = self.parked.lock().with(Vec::pop)?;
        // Relaxed: as in the product.
        self.sets[set].door.lock().with(|_| self.sets[set].parked.store(0, Ordering::Relaxed));
        Some(set)
    }

    /// At rest, with all threads joined: checks the inboxes, brings all freed blocks home, and checks all counts.
    /// `with_program` blocks are still in use. Returns the number of free blocks.
    pub(crate) fn settle(&self, with_program: usize) -> usize {
        for (number, set) in self.sets.iter().enumerate() {
            set.door.acquire();
            let mut waiting = Vec::new();
            // SAFETY: the door is held, and all threads ended.
            for (remote, home) in unsafe { set.inbox.peek_all() } {
                assert!(!waiting.contains(&home), "a pool is in an inbox twice");
                waiting.push(home);
                // SAFETY: what a pusher left.
                let pool = unsafe { home.cast::<Pool>().as_ref() }.expect("a pool came without its home");
                assert!(ptr::eq(&pool.remote, remote.as_ptr()));
                assert_eq!(pool.tag.load(Ordering::Relaxed), number, "a pool is in an inbox that is not its owner's");
                assert_ne!(pool.remote.outstanding(), 0, "a pool is in an inbox without blocks outstanding");
            }
            assert_eq!(set.inbox.is_empty(), waiting.is_empty());
            // SAFETY: acquired above; no other reference is live.
            unsafe { set.door.with_held(|lists| self.collect(number, lists)) };
            // SAFETY: acquired above.
            unsafe { set.door.release() };
        }
        let free = (0..self.pools.len()).map(|number| self.settle_pool(number)).sum::<usize>();
        let blocks = self.pools.iter().map(|pool| pool.blocks.len()).sum::<usize>();
        assert_eq!(free + with_program, blocks, "a block was lost or doubled");
        free
    }

    /// Checks one pool's counts; returns the number of its free blocks.
    fn settle_pool(&self, number: usize) -> usize {
        let pool = &self.pools[number];
        assert_eq!(pool.remote.outstanding(), 0, "blocks were lost between count and inbox");
        assert!(pool.words.iter().all(|word| word.peek() == 0), "a block's bit was left behind");
        let owner = pool.tag.load(Ordering::Relaxed);
        for (set, other) in self.sets.iter().enumerate() {
            let listed = other.door.lock().with(|lists| lists.pools.iter().filter(|&&pool| pool == number).count());
            assert_eq!(listed, usize::from(set == owner), "a pool is not in its owner's lists alone");
        }
        if owner == NOBODY {
            return pool.blocks.len();
        }
        pool.owned(|owned| {
            let free = owned.free.iter().map(|word| word.count_ones() as usize).sum::<usize>();
            assert_eq!(free + owned.used as usize, pool.blocks.len(), "used and free blocks don't add up");
            free
        })
    }
}
