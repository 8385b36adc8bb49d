//! Finds the block that an address is in.
//!
//! A small block is found by arithmetic: its arena, its pool and its number in the pool lead to an entry in a table of
//! all places of all pools in use. A large block is found by a search among their starts.
//!
//! A block is *traced* if the tracer knows it. It is *untraced* if it is small, the program holds it, and it was
//! allocated before the tracer was started; or if a call is just handing it out or freeing it.

use super::ScanError;
use super::memory::{Area, Claims};
use crate::base::config::{ARENA_BYTES, METADATA_MAPPING_BYTES, POOL_BYTES, POOLS_PER_ARENA, WORD_BITS};
use crate::base::kind::Small;
use crate::base::size_class::SizeClass;
use crate::cache::{GLOBAL, ThreadCache};
use crate::graph::found::{RawNode, UNTRACED};
use crate::heap::Stopped;
use crate::heap::arena::{ArenaRef, PoolRef};
use crate::heap::pool::State;
use crate::trace::access::{self, Mapped};

// The values of the entry of a place in a pool: one of the three constants here, or the number of a block plus 1. At
// first blocks are numbered among the traced ones, later among all.
const EMPTY: u32 = 0;
/// A block of the tracer's own, or one that a thread cache holds.
const NOBODYS: u32 = u32::MAX;
/// An untraced block.
const UNKNOWN: u32 = u32::MAX - 1;
/// The most blocks.
const NODES_MAX: usize = 1 << 31;

const WORD_BYTES: usize = size_of::<usize>();
const RECIPROCAL_SHIFT: u32 = 28;

#[derive(Clone, Copy)]
struct ArenaPlace {
    start: usize,
    arena: ArenaRef,
}

/// A pool's places.
#[derive(Clone, Copy)]
struct PoolPlaces {
    first: u32,
    blocks: u32,
    block_bytes: u32,
    /// `ceil(2^28 / block_bytes)`: exact for every offset in a pool, as in `base/size_class.rs`.
    reciprocal: u32,
}

#[derive(Clone, Copy)]
struct Traced {
    bytes: usize,
    stack: u32,
}

#[derive(Clone, Copy)]
struct Large {
    start: usize,
    bytes: usize,
    stack: u32,
    /// Its number plus 1; 0 if it is the tracer's own.
    node: u32,
}

pub(super) struct Index {
    /// Sorted.
    arenas: Mapped<ArenaPlace>,
    arenas_start: usize,
    arenas_bytes: usize,
    /// For each arena-sized place from the first arena on: the arena's index plus 1, or 0 if there is none.
    by_place: Mapped<u32>,
    pools: Mapped<PoolPlaces>,
    places: Mapped<u32>,
    /// Sorted.
    large: Mapped<Large>,
    large_start: usize,
    large_bytes: usize,
    pub(super) nodes: Mapped<RawNode>,
    /// How many of the nodes are small blocks: the first ones.
    pub(super) small: usize,
}

fn memory<T>(found: Option<T>) -> Result<T, ScanError> {
    found.ok_or(ScanError::Memory)
}

impl Index {
    /// Finds all blocks, and claims the memory of the blocks and of the allocator.
    ///
    /// # Safety
    /// As for [`scan`](super::scan).
    pub(super) unsafe fn build(areas: &[Area], claims: &mut Claims) -> Result<Self, ScanError> {
        let mut stopped = GLOBAL.stop();
        let mut index = Self::of_arenas(&mut stopped)?;
        claim_metadata(&stopped, &index.arenas, areas, claims)?;
        let mut traced = Mapped::new();
        // SAFETY: the caller's promise.
        unsafe { index.note_traced(&mut traced, claims) }?;
        index.note_untraced(&stopped);
        index.number(&traced)?;
        for arena in index.arenas.iter() {
            claims.add(arena.start, ARENA_BYTES)?;
        }
        for block in index.large.iter() {
            claims.add(block.start, block.bytes)?;
        }
        Ok(index)
    }

    /// The arenas and their pools; no blocks yet.
    fn of_arenas(stopped: &mut Stopped<'_>) -> Result<Self, ScanError> {
        let mut arenas = Mapped::new();
        stopped.with_state(|state| {
            state
                .arenas
                .iter()
                .try_for_each(|arena| memory(arenas.push(ArenaPlace { start: arena.start().addr(), arena })))
        })?;
        arenas.sort_unstable_by_key(|arena| arena.start);
        let arenas_start = arenas.first().map_or(0, |arena| arena.start);
        let arenas_bytes = arenas.last().map_or(0, |arena| arena.start + ARENA_BYTES - arenas_start);
        let mut by_place = memory(Mapped::<u32>::zeroed(arenas_bytes / ARENA_BYTES))?;
        let (mut pools, mut places) = (Mapped::new(), 0);
        for (number, arena) in arenas.iter().enumerate() {
            if let Some(place) = by_place.get_mut((arena.start - arenas_start) / ARENA_BYTES) {
                *place = number as u32 + 1;
            }
            for pool in arena.arena.pools() {
                let class = class_of(pool);
                let (blocks, block_bytes) =
                    class.map_or((0, 1), |class| (class.pool_blocks() as u32, class.block_bytes() as u32));
                let reciprocal = (1_u64 << RECIPROCAL_SHIFT).div_ceil(block_bytes.into()) as u32;
                memory(pools.push(PoolPlaces { first: places, blocks, block_bytes, reciprocal }))?;
                places = places.checked_add(blocks).ok_or(ScanError::TooLarge)?;
            }
        }
        let places = memory(Mapped::zeroed(places as usize))?;
        let (large, nodes) = (Mapped::new(), Mapped::new());
        Ok(Self {
            arenas,
            arenas_start,
            arenas_bytes,
            by_place,
            pools,
            places,
            large,
            large_start: 0,
            large_bytes: 0,
            nodes,
            small: 0,
        })
    }

    /// # Safety
    /// As for [`scan`](super::scan).
    unsafe fn note_traced(&mut self, traced: &mut Mapped<Traced>, claims: &mut Claims) -> Result<(), ScanError> {
        let mut result = Ok(());
        let block = |address: usize, bytes: usize, stack: u32| {
            if result.is_err() {
                return;
            }
            let Some(place) = self.place_of(address) else {
                result = memory(self.large.push(Large { start: address, bytes, stack, node: 0 }));
                return;
            };
            let mark = if stack == access::OWN { NOBODYS } else { traced.len() as u32 + 1 };
            if let Some(found) = self.places.get_mut(place) {
                *found = mark;
            }
            if mark != NOBODYS {
                result = memory(traced.push(Traced { bytes, stack }));
            }
        };
        let mut claimed = Ok(());
        let array = |start: usize, bytes: usize| {
            if claimed.is_ok() {
                claimed = claims.add(start, bytes);
            }
        };
        // SAFETY: the caller's promise.
        unsafe { access::each_held(block, array) };
        claimed.and(result)
    }

    /// Marks the places of small blocks that the tracer does not know: those that the program holds, and the free ones.
    fn note_untraced(&mut self, stopped: &Stopped<'_>) {
        for set in stopped.heap().sets() {
            // SAFETY: a registered set; caches are never unmapped.
            let Some(cache) = (unsafe { ThreadCache::of_set(stopped.heap(), set).map(|cache| cache.as_ref()) }) else {
                continue;
            };
            for block in SizeClass::all().flat_map(|class| cache.all_blocks(class, stopped.door())) {
                if let Some(place) = self.place_of(block.addr())
                    && let Some(found @ &mut EMPTY) = self.places.get_mut(place)
                {
                    *found = NOBODYS;
                }
            }
        }
        for (arena, pools) in self.arenas.iter().zip(self.pools.chunks(POOLS_PER_ARENA)) {
            for (pool, places) in arena.arena.pools().zip(pools) {
                let Some(class) = class_of(pool) else { continue };
                let first = places.first as usize;
                let Some(places) = self.places.get_mut(first..first + places.blocks as usize) else { continue };
                for (number, place) in places.iter_mut().enumerate().filter(|(_, place)| **place == EMPTY) {
                    let (word, bit) = (number / WORD_BITS, number % WORD_BITS);
                    let taken =
                        class.full_word(word) & !pool.pool().free_bits::<Small>(word) & !pool.remote_word(word).peek();
                    *place = if taken >> bit & 1 == 1 { UNKNOWN } else { EMPTY };
                }
            }
        }
    }

    /// Numbers the blocks: first the small ones, then the large ones, both by address.
    fn number(&mut self, traced: &[Traced]) -> Result<(), ScanError> {
        for (index, pool) in self.pools.iter().enumerate() {
            let start = self.arenas.get(index / POOLS_PER_ARENA).map_or(0, |arena| arena.start)
                + index % POOLS_PER_ARENA * POOL_BYTES;
            let places = self.places.get_mut(pool.first as usize..).unwrap_or_default();
            for (number, place) in places.iter_mut().take(pool.blocks as usize).enumerate() {
                let block_bytes = pool.block_bytes as usize;
                let found = match *place {
                    EMPTY | NOBODYS => {
                        *place = EMPTY;
                        continue;
                    }
                    UNKNOWN => Traced { bytes: block_bytes, stack: UNTRACED },
                    known => *traced.get(known as usize - 1).ok_or(ScanError::Memory)?,
                };
                let address = start + number * block_bytes;
                let words = (block_bytes / WORD_BYTES) as u32;
                let Traced { bytes, stack } = found;
                memory(self.nodes.push(RawNode { address, bytes, stack, words }))?;
                *place = self.nodes.len() as u32;
            }
        }
        self.small = self.nodes.len();
        self.large.sort_unstable_by_key(|block| block.start);
        for block in self.large.iter_mut().filter(|block| block.stack != access::OWN) {
            let words = u32::try_from(block.bytes / WORD_BYTES).map_err(|_| ScanError::TooLarge)?;
            let Large { start: address, bytes, stack, .. } = *block;
            memory(self.nodes.push(RawNode { address, bytes, stack, words }))?;
            block.node = self.nodes.len() as u32;
        }
        self.large_start = self.large.first().map_or(0, |block| block.start);
        self.large_bytes = self.large.last().map_or(0, |block| block.start + block.bytes - self.large_start);
        if self.nodes.len() < NODES_MAX { Ok(()) } else { Err(ScanError::TooLarge) }
    }

    /// The place of a small block that an address is in.
    #[inline(always)]
    fn place_of(&self, address: usize) -> Option<usize> {
        let offset = address.wrapping_sub(self.arenas_start);
        if offset >= self.arenas_bytes {
            return None;
        }
        let arena = self.by_place.get(offset / ARENA_BYTES)?.checked_sub(1)? as usize;
        let offset = offset % ARENA_BYTES;
        let pool = self.pools.get(arena * POOLS_PER_ARENA + offset / POOL_BYTES)?;
        let number = ((offset % POOL_BYTES) as u64 * u64::from(pool.reciprocal)) >> RECIPROCAL_SHIFT;
        let number = number as u32;
        (number < pool.blocks).then_some((pool.first + number) as usize)
    }

    /// The number of the block that a word points into; a large block also counts if the word points right behind it.
    #[inline(always)]
    pub(super) fn find(&self, word: usize) -> Option<u32> {
        if word.wrapping_sub(self.arenas_start) < self.arenas_bytes
            && let Some(place) = self.place_of(word)
        {
            return self.places.get(place)?.checked_sub(1);
        }
        if word.wrapping_sub(self.large_start) > self.large_bytes {
            return None;
        }
        self.find_large(word)
    }

    fn find_large(&self, word: usize) -> Option<u32> {
        let after = self.large.partition_point(|block| block.start <= word);
        let block = self.large.get(after.checked_sub(1)?)?;
        if word - block.start <= block.bytes { block.node.checked_sub(1) } else { None }
    }
}

/// The class of the blocks in a pool, if they are small. Medium blocks are found as large ones are.
fn class_of(pool: PoolRef) -> Option<SizeClass> {
    let is_used = matches!(pool.pool().state(), State::Partial | State::Full);
    if is_used { SizeClass::from_index(pool.pool().any_class().index()) } else { None }
}

/// Claims the mappings of the allocator's metadata. Such a mapping holds descriptors, and its size tells it from
/// others.
fn claim_metadata(
    stopped: &Stopped<'_>,
    arenas: &[ArenaPlace],
    areas: &[Area],
    claims: &mut Claims,
) -> Result<(), ScanError> {
    let sets = stopped.heap().sets().map(|set| set.addr().get());
    let mut last = 0..0;
    for address in arenas.iter().map(|place| place.arena.metadata().addr().get()).chain(sets) {
        if last.contains(&address) {
            continue;
        }
        if let Some(area) = Area::holding(areas, address)
            && area.end - area.start == METADATA_MAPPING_BYTES
        {
            last = area.start..area.end;
            claims.add(area.start, METADATA_MAPPING_BYTES)?;
        }
    }
    Ok(())
}
