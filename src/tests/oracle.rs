//! The oracle itself: each corruption that is planted in a heap is found by the self-check, under its name.

use std::ptr::{NonNull, null_mut};

use super::test_heap::{Live, TestHeap, alloc, class};
use crate::base::config::{ARENA_BYTES, BITMAP_WORDS_MAX, POOL_BYTES, PURGE_PARTS};
use crate::base::kind::Small;
use crate::cache::ThreadCache;
use crate::heap::arena::{ArenaRef, PoolRef};
use crate::heap::pool::State;
use crate::protocols::remote::RemoteWord;
use crate::sync::Ordering;

/// 341 blocks a pool: the last word of the bitmap is not full.
const BLOCK_BYTES: usize = 48;

/// A heap with a full pool, one with a few free blocks, one that was not used far, and blocks in the magazine.
struct Sound {
    test: TestHeap,
    cache: &'static ThreadCache,
    live: Vec<Live>,
    partial: PoolRef,
    full: PoolRef,
}

impl Sound {
    fn new() -> Self {
        let test = TestHeap::new();
        let cache = test.attach();
        let blocks = 2 * POOL_BYTES / BLOCK_BYTES + 50;
        let mut live: Vec<_> = (0..blocks).map(|seed| alloc(cache, class(BLOCK_BYTES), seed as u64).unwrap()).collect();
        live.sort_unstable_by_key(|live| live.start.addr());
        live.drain(4..40).for_each(|block| block.free(cache));
        cache.shrink();
        let pool_of = |live: &Live| test.heap.map.pool_of(live.start.addr()).unwrap();
        let (partial, full) = (pool_of(&live[0]), pool_of(&live[POOL_BYTES / BLOCK_BYTES + 20]));
        // A few in the magazine again.
        alloc(cache, class(BLOCK_BYTES), 0).unwrap().free(cache);
        test.check();
        assert_eq!((partial.pool().state(), full.pool().state()), (State::Partial, State::Full));
        Self { test, cache, live, partial, full }
    }

    fn assert_finds(&self, message: &str) {
        match self.test.try_check() {
            Ok(_) => panic!("not found: {message}"),
            Err(found) => {
                assert_eq!(found.message, message);
                assert_eq!(found.to_string(), format!("{message} (at {:#x})", found.address));
            }
        }
    }

    /// A word of a pool with a free block, and the bit of one.
    fn free_bit(pool: PoolRef) -> (usize, u64) {
        let free = |word: &usize| pool.pool().any_free_bits(*word);
        let word = (0..class(BLOCK_BYTES).bitmap_words()).find(|word| free(word) != 0).unwrap();
        (word, free(&word) & free(&word).wrapping_neg())
    }

    /// The remote word and the bit of a block.
    fn remote_bit<'heap>(pool: PoolRef, block: &Live) -> (&'heap RemoteWord, u64) {
        let number = class(BLOCK_BYTES).block_at(block.start.addr() % POOL_BYTES).unwrap();
        (pool.remote_word(number / 64), 1 << (number % 64))
    }

    fn arena(&self) -> ArenaRef {
        self.partial.arena()
    }

    /// An index of a pool that nobody owns, its bit.
    fn unused(&self) -> (PoolRef, u64) {
        let bit = self.arena().free.get() & self.arena().free.get().wrapping_neg();
        (PoolRef::at_index(self.partial.arena(), bit.trailing_zeros() as usize), bit)
    }
}

#[test]
fn arenas() {
    let sound = Sound::new();
    assert!(sound.test.heap.map.set(sound.partial.start().addr() / ARENA_BYTES * ARENA_BYTES, None));
    sound.assert_finds("an arena is not in the address map");

    let sound = Sound::new();
    let free = sound.arena().free.get();
    sound.arena().free.set(free | 1 << sound.partial.index());
    sound.assert_finds("an arena is in the list of another number of free pools");

    let sound = Sound::new();
    sound.arena().previous.set(Some(sound.arena()));
    sound.assert_finds("a list of arenas is broken");

    let sound = Sound::new();
    sound.arena().dirty.set(sound.arena().dirty.get() ^ sound.unused().1);
    sound.assert_finds("arenas or their free pools are miscounted");
}

#[test]
fn unused_pools() {
    let sound = Sound::new();
    let (unused, _) = sound.unused();
    unused.set_up();
    let tag = sound.partial.tag().load(Ordering::Relaxed);
    unused.tag().store(tag, Ordering::Relaxed);
    sound.assert_finds("an unused pool has an owner");
    unused.tag().store(null_mut(), Ordering::Relaxed);
    unused.pool().set_state(State::Empty);
    sound.assert_finds("an unused pool is in use");
    unused.pool().set_state(State::Unused);
    let _ = unused.remote().arrive(1);
    sound.assert_finds("an unused pool has blocks outstanding");
}

#[test]
#[cfg(feature = "__raw")]
fn the_map_of_classes() {
    let sound = Sound::new();
    let classes = &sound.test.heap.classes;
    for pool in [sound.partial, sound.full] {
        let start = pool.pool().start().addr();
        classes.leave(start);
        sound.assert_finds("a pool has another class in the map of classes");
        classes.enter(start, class(64));
        sound.assert_finds("a pool has another class in the map of classes");
        classes.enter(start, class(BLOCK_BYTES));
        sound.test.check();
    }
    let unused = sound.arena().start().addr() + sound.unused().0.index() * POOL_BYTES;
    classes.enter(unused, class(BLOCK_BYTES));
    sound.assert_finds("an unused pool is in the map of classes");
}

#[test]
fn tags() {
    let sound = Sound::new();
    let tag = sound.partial.tag().load(Ordering::Relaxed);
    let with = |tag, message| {
        sound.partial.tag().store(tag, Ordering::Relaxed);
        sound.assert_finds(message);
    };
    with(null_mut(), "a pool's owner is no set");
    with(sound.cache.set.tag(class(64)), "a pool's tag and descriptor differ in class");
    let other = sound.test.attach();
    with(other.set.tag(class(BLOCK_BYTES)), "a listed pool belongs to another set");
    sound.partial.tag().store(tag, Ordering::Relaxed);
    sound.test.check();
}

#[test]
fn states_and_lists() {
    let sound = Sound::new();
    let pool = sound.partial.pool();
    pool.set_state(State::Full);
    sound.assert_finds("a pool's state does not fit its blocks");
    pool.set_state(State::Partial);
    sound.test.check();
    let door = &sound.cache.set.door;
    door.lock().with(|pools| pools.partial(class(BLOCK_BYTES)).remove(pool));
    sound.assert_finds("a partial pool is in no list");
    door.lock().with(|pools| pools.partial(class(64)).push_first(pool));
    sound.assert_finds("a listed pool is of another class");

    let sound = Sound::new();
    let pool = sound.partial.pool();
    sound.cache.set.door.lock().with(|pools| pools.partial(class(BLOCK_BYTES)).push_first(sound.full.pool()));
    sound.assert_finds("a listed pool is in another state");
    sound.cache.set.door.lock().with(|pools| {
        pools.partial(class(BLOCK_BYTES)).remove(sound.full.pool());
        pools.partial(class(BLOCK_BYTES)).remove(pool);
    });
    // In the list of another set.
    let other = sound.test.attach();
    other.set.door.lock().with(|pools| pools.partial(class(BLOCK_BYTES)).push_first(pool));
    sound.assert_finds("a listed pool belongs to another set");
}

#[test]
fn empty_pools() {
    let mut sound = Sound::new();
    sound.live.drain(..).for_each(|block| block.free(sound.cache));
    sound.cache.set.enter(sound.test.heap, |inside| sound.cache.flush_all(inside));
    assert!(sound.test.check().pools_empty > 0);
    let (set, door) = (&sound.cache.set, &sound.cache.set.door);
    door.lock().with(|pools| {
        let pool = pools.empty().first().unwrap();
        // SAFETY: a pool of this heap, used under the door.
        let pool = unsafe { &*std::ptr::from_ref(pool) };
        pools.empty().remove(pool);
    });
    assert!(!set.is_parked());
    sound.assert_finds("a set's empty pools are miscounted");
}

#[test]
fn bitmaps() {
    let sound = Sound::new();
    let (word, bit) = Sound::free_bit(sound.partial);
    let cell = sound.partial.pool().word(word);
    let taken = cell.get();
    let with = |bits, message| {
        cell.set(bits);
        sound.assert_finds(message);
        cell.set(taken);
        sound.test.check();
    };
    assert!(sound.partial.pool().any_free_bits(word).count_ones() > 1, "or else the summary would be wrong first");
    with(taken | bit, "a pool's blocks don't add up");
    with(class(BLOCK_BYTES).full_word(word), "a bitmap's summary is wrong");
    let last = class(BLOCK_BYTES).bitmap_words() - 1;
    let cell = sound.full.pool().word(last);
    cell.set(u64::MAX);
    sound.assert_finds("a bitmap has a bit beyond the pool's blocks");
    assert!(sound.full.remote_word(last).free(!class(BLOCK_BYTES).full_word(last)));
    sound.assert_finds("a bitmap has a bit beyond the pool's blocks");

    let sound = Sound::new();
    let (unused, _) = sound.unused();
    unused.set_up();
    sound.test.check();
    for (pool, word) in [(sound.partial, last + 1), (sound.full, BITMAP_WORDS_MAX - 1), (unused, 0)] {
        pool.pool().word(word).set(1);
        sound.assert_finds("a bitmap has bits in a word that is not in use");
        // The same bit in both bitmaps, then in the remote one alone.
        assert!(pool.remote_word(word).free(1));
        sound.assert_finds("a bitmap has bits in a word that is not in use");
        pool.pool().word(word).set(0);
        sound.assert_finds("a bitmap has bits in a word that is not in use");
        assert_eq!(pool.remote_word(word).collect(), 1);
        sound.test.check();
    }
}

#[test]
fn purged_parts() {
    for part in 0..PURGE_PARTS {
        let sound = Sound::new();
        sound.full.pool().add_purged(1 << part);
        sound.assert_finds("a purged part has blocks outside");
    }
}

#[test]
fn remote_frees() {
    let sound = Sound::new();
    let (word, bit) = Sound::free_bit(sound.partial);
    assert!(sound.partial.remote_word(word).free(bit));
    sound.assert_finds("a block is free twice");
    // The same bit, no longer free at home.
    let cell = sound.partial.pool().word(word);
    cell.set(cell.get() | bit);
    sound.assert_finds("a pool has remote bits that no count tells of");

    let sound = Sound::new();
    let (remote, bit) = Sound::remote_bit(sound.partial, &sound.live[0]);
    assert!(remote.free(bit));
    sound.assert_finds("a pool's blocks don't add up");
    let _ = sound.partial.remote().arrive(1);
    sound.assert_finds("a pool with blocks outstanding is in no inbox");
    let other = sound.test.attach();
    // SAFETY: the pool's first arrival is above; that the inbox is another set's is what is planted.
    unsafe { other.set.inbox::<Small>().push(sound.partial.remote().into(), sound.partial.home()) };
    sound.assert_finds("an inbox holds a pool of another set");
}

#[test]
fn cached_blocks() {
    let sound = Sound::new();
    let slot = |number: usize| {
        let mut door = sound.cache.set.door.lock();
        let blocks = door.with(|pools| std::ptr::from_ref(sound.cache.blocks(class(BLOCK_BYTES), pools.door())));
        drop(door);
        // SAFETY: the magazine of a cache that nobody uses meanwhile.
        unsafe { &(*blocks)[number] }
    };
    let good = slot(0).load(Ordering::Relaxed);
    let with = |address: *mut u8, message| {
        slot(0).store(address, Ordering::Relaxed);
        sound.assert_finds(message);
        slot(0).store(good, Ordering::Relaxed);
        sound.test.check();
    };
    with(NonNull::dangling().as_ptr(), "a cached block is in no arena");
    with(good.wrapping_add(8), "a cached block starts at no block's start");
    let (word, bit) = Sound::free_bit(sound.partial);
    let free = (word * 64 + bit.trailing_zeros() as usize) * BLOCK_BYTES;
    with(sound.partial.start().wrapping_add(free), "a cached block is free in its pool");
    let other = alloc(sound.cache, class(64), 0).unwrap();
    with(other.start, "a cached block is of another class");
}
