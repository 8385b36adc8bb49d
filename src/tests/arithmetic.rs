//! The arithmetic from an address to its arena, pool, word and part, over the whole domain.
//! (Block sizes: `size_class.rs`.)

use std::collections::BTreeSet;
use std::ptr::NonNull;

use crate::base::bitmap::WORDS_PER_LINE;
use crate::base::config::PURGE_UNIT_BYTES;
use crate::base::config::{
    ARENA_BYTES, BITMAP_WORDS_MAX, CACHE_LINE_BYTES, POOL_BYTES, POOLS_PER_ARENA, PURGE_PARTS, WORD_BITS,
};
use crate::base::size_class::SizeClass;
use crate::heap::arena::{Arena, ArenaRef, PoolRef};
use crate::heap::arena_map::{AddressMap, Leaf, Near};
use crate::heap::pool::Slot;
use crate::heap::pool::parts_of;

/// A zeroed value that lives for ever, in place of metadata.
fn metadata<T>() -> NonNull<T> {
    let boxed = Box::<T>::new_uninit();
    let place = NonNull::from(Box::leak(boxed)).cast::<T>();
    // SAFETY: all metadata is valid when zeroed.
    unsafe { place.write_bytes(0, 1) };
    place
}

/// Metadata that belongs to no arena yet.
pub(super) fn arena() -> ArenaRef {
    // SAFETY: like metadata, it is zeroed and lives for ever.
    unsafe { ArenaRef::new(metadata()) }
}

#[test]
fn every_address_finds_its_arena_and_no_other() {
    let map = Box::new(AddressMap::new());
    let limit: usize = 1 << 48;
    // Addresses at both ends of the address space and of leaves, and some in between.
    let leaf_bytes = 1 << 34;
    let starts = [0, ARENA_BYTES, leaf_bytes - ARENA_BYTES, leaf_bytes, 0x7f3c_5a60_0000, limit - ARENA_BYTES];
    let mut leaves = BTreeSet::new();
    let arenas = starts.map(|start| {
        let (arena, leaf) = (arena(), metadata::<Leaf>());
        assert_eq!(map.lacks_leaf(start), leaves.insert(start / leaf_bytes));
        if map.lacks_leaf(start) {
            assert!(!map.set(start, Some(arena)), "there is no leaf");
            map.add_leaf(start, leaf);
        }
        assert!(!map.lacks_leaf(start));
        assert!(map.set(start, Some(arena)));
        arena
    });
    // Every place of an arena; with debug assertions, which are slow, one in 61.
    let step = if cfg!(debug_assertions) { 61 } else { 1 };
    let mut found = 0;
    let mut near = Near::new(&map);
    let mut arena_near = |address| near.pool_of(address).map(PoolRef::arena);
    for number in (0..limit / ARENA_BYTES).step_by(step).chain(starts.map(|start| start / ARENA_BYTES)) {
        let start = number * ARENA_BYTES;
        let expected = starts.iter().position(|&known| known == start).map(|place| arenas[place]);
        assert_eq!(map.arena_of(start), expected);
        assert_eq!(map.arena_of(start + ARENA_BYTES - 1), expected);
        assert_eq!(arena_near(start), expected);
        found += usize::from(expected.is_some());
    }
    assert!(found >= starts.len());
    // Each arena is found by a fresh `Near`, then by one that has just found another arena and remembers its leaf.
    for (start, arena) in starts.iter().zip(&arenas) {
        assert_eq!(Near::new(&map).pool_of(*start).map(PoolRef::arena), Some(*arena));
    }
    for (from, to) in (0..starts.len()).flat_map(|from| (0..starts.len()).map(move |to| (from, to))) {
        assert_eq!([from, to].map(|place| arena_near(starts[place])), [from, to].map(|place| Some(arenas[place])));
    }
    // Beyond the map: never found, never entered.
    for address in (48..64).map(|shift| 1_usize << shift).chain([usize::MAX, !(limit - 1)]) {
        assert_eq!((map.arena_of(address), arena_near(address), arena_near(starts[0])), (None, None, Some(arenas[0])));
        assert!(!map.set(address, Some(arenas[0])) && !map.lacks_leaf(address));
    }
    for start in starts {
        assert!(map.set(start, None));
        assert_eq!(map.arena_of(start), None);
    }
}

#[test]
fn every_address_of_an_arena_is_in_its_pool() {
    let arena = arena();
    let start = 0x7f3c_5a60_0000;
    let pools: Vec<_> = arena.pools().map(|place| std::ptr::from_ref(place.pool())).collect();
    for offset in 0..ARENA_BYTES {
        let place = PoolRef::at_offset(arena, start + offset);
        assert_eq!(place.index(), offset / POOL_BYTES);
        assert!(std::ptr::eq(place.pool(), pools[offset / POOL_BYTES]));
    }
}

#[test]
fn every_pool_and_word_has_memory_of_its_own_in_its_arenas_metadata() {
    let arena = arena();
    let first = arena.metadata().addr().get();
    let inside = first..first + size_of::<Arena>();
    let (mut taken, mut lines) = (BTreeSet::new(), BTreeSet::new());
    let mut enter = |address: usize, bytes: usize| {
        assert!(inside.contains(&address) && address + bytes <= inside.end);
        (address..address + bytes).for_each(|byte| assert!(taken.insert(byte), "{byte:#x} is two things"));
    };
    for index in 0..POOLS_PER_ARENA {
        let place = PoolRef::at_index(arena, index);
        place.set_up();
        let address = |reference: *const u8| reference.addr();
        enter(address(std::ptr::from_ref(place.pool()).cast()), size_of::<crate::heap::pool::Pool>());
        enter(address(std::ptr::from_ref(place.remote()).cast()), size_of::<crate::protocols::remote::RemoteHalf>());
        enter(address(std::ptr::from_ref(place.tag()).cast()), size_of::<usize>());
        // SAFETY: a remote half of this arena's.
        assert_eq!(unsafe { PoolRef::from_inbox(place.remote().into(), place.home().as_ptr()) }.index(), index);
        for word in 0..BITMAP_WORDS_MAX {
            let own = address(std::ptr::from_ref(place.pool().word(word)).cast());
            let remote = address(std::ptr::from_ref(place.remote_word(word)).cast());
            enter(own, size_of::<u64>());
            enter(remote, size_of::<u64>());
            // No two pools share a cache line.
            for line in [own / CACHE_LINE_BYTES, remote / CACHE_LINE_BYTES] {
                assert_eq!(lines.insert((line, index)), word % WORDS_PER_LINE == 0);
                assert!(!lines.contains(&(line, index.wrapping_sub(1))));
            }
        }
    }
}

#[test]
fn every_range_of_a_pool_reaches_into_its_parts() {
    for first in (0..POOL_BYTES).step_by(8) {
        for end in (first + 8..=POOL_BYTES).step_by(8) {
            let (low, high) = (first / PURGE_UNIT_BYTES, (end - 1) / PURGE_UNIT_BYTES);
            let expected = (low..=high).fold(0_u8, |mask, part| mask | 1 << part);
            assert_eq!(parts_of(first, end, PURGE_UNIT_BYTES), expected, "{first}..{end}");
        }
        assert_eq!(parts_of(first, first, PURGE_UNIT_BYTES).count_ones(), u32::from(first % PURGE_UNIT_BYTES != 0));
    }
}

#[test]
fn a_part_is_free_if_and_only_if_no_block_that_reaches_into_it_is_taken() {
    let arena = arena();
    let place = PoolRef::at_index(arena, 0);
    place.set_up();
    let pool = place.pool();
    for class in SizeClass::all() {
        pool.open(class);
        let all: Vec<_> = (0..class.pool_blocks()).map(|_| Slot::new(std::ptr::null_mut())).collect();
        pool.take::<crate::base::kind::Small>(&all);
        assert_eq!(pool.free_blocks(), 0);
        for word in 0..class.bitmap_words() {
            pool.free(word, class.full_word(word)).expect("all are taken");
        }
        for block in 0..class.pool_blocks() {
            let word = pool.word(block / WORD_BITS);
            let bit = 1 << (block % WORD_BITS);
            word.set(word.get() | bit);
            let bytes = block * class.block_bytes()..(block + 1) * class.block_bytes();
            for part in 0..PURGE_PARTS {
                let part_bytes = part * PURGE_UNIT_BYTES..(part + 1) * PURGE_UNIT_BYTES;
                let reaches = bytes.start < part_bytes.end && part_bytes.start < bytes.end;
                assert_eq!(pool.is_part_free(part), !reaches, "{class:?} block {block} part {part}");
            }
            word.set(word.get() & !bit);
        }
    }
}
