//! The picture of the heap: every arena as a grid of its pools, and fragmentation by class.
//!
//! This module gathers the data, in one walk while the slow paths are stopped. `svg` draws it; `html` makes a page of
//! the drawing.

mod colours;
mod html;
mod layout;
mod svg;

use crate::base::config::{ARENA_BYTES, POOL_BYTES, POOLS_PER_ARENA};
use crate::base::size_class::{AnyClass, MediumClass, SizeClass};
#[cfg(feature = "trace")]
use crate::cache::GLOBAL;
use crate::heap::Stopped;
use crate::heap::arena::PoolRef;
use crate::heap::pool::State;
use crate::inspect::stats::{Stats, for_each_cache, outside_blocks, untouched_bytes};

/// What a pool is used for: nothing, a thread's next need, blocks, or a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum PoolUse {
    /// No thread owns it.
    Unused,
    /// It is empty, and a thread keeps it for its next need.
    Empty,
    /// It holds blocks of a size class. If they are larger than 4 KiB, it is the first of eight pools that hold them.
    Blocks,
    /// It is the first pool of a run: one block of several pools, which the program has.
    Run,
    /// It belongs to several pools that make one, and is not the first. The first has the counts.
    Behind,
}

/// The use and the counts of one pool, from [`heap_map`](crate::heap_map()).
///
/// Without [`PoolUse::Blocks`], the counts of blocks are 0. The first of several pools that make one has the counts of
/// all. Blocks that are in none of the counts live, cached, remote and uncarved are free, in memory that was used
/// before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct PoolMap {
    /// What it is used for.
    pub used_for: PoolUse,
    /// Bytes of each of its blocks.
    pub block_bytes: u16,
    /// Number of its blocks, used and free.
    pub blocks: u16,
    /// Blocks that the program has.
    pub blocks_live: u16,
    /// Free blocks in thread caches.
    pub blocks_cached: u16,
    /// Free blocks that other threads freed and the pool's owner has not collected yet.
    pub blocks_remote: u16,
    /// Free blocks whose memory was never used since it was mapped or purged.
    pub blocks_uncarved: u16,
    /// Bytes without memory: never touched since they were mapped or purged.
    pub bytes_untouched: u16,
}

/// One arena and its pools, from [`heap_map`](crate::heap_map()).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct ArenaMap {
    /// The address of its first byte.
    pub address: usize,
    /// Its pools, lowest address first.
    #[cfg_attr(feature = "serde", serde(with = "crate::inspect::stats::serial"))]
    pub pools: [PoolMap; POOLS_PER_ARENA],
}

/// A map of every pool of the heap, from [`heap_map`](crate::heap_map()): the data, and pictures of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct HeapMap {
    /// The title of the pictures.
    pub title: String,
    /// The arenas, lowest address first.
    pub arenas: Vec<ArenaMap>,
    /// The heap's statistics at the same moment.
    pub stats: Stats,
}

impl HeapMap {
    /// Sets the title of the pictures. Any text is allowed.
    #[must_use]
    pub fn with_title(mut self, title: impl Into<String>) -> Self {
        self.title = title.into();
        self
    }

    /// Draws the map as an SVG picture: the arenas as grids of pools, lowest address first, and beside them
    /// fragmentation by size class.
    ///
    /// A pool has its class's colour; the more of its blocks are live, the stronger the colour. Many arenas are drawn
    /// small. Beyond 1600, arenas are left out, and the picture says so.
    ///
    /// ```
    /// # #[global_allocator] static GLOBAL: pymalloc::Pymalloc = pymalloc::Pymalloc::new();
    /// let picture = pymalloc::heap_map().with_title("At the start").to_svg();
    /// assert!(picture.starts_with("<svg") && picture.contains("At the start"));
    /// ```
    pub fn to_svg(&self) -> String {
        svg::draw(self)
    }

    /// Makes an HTML page of the picture, in one file. Pointing at a pool shows its counts; pointing at a class shows
    /// where its pools are.
    ///
    /// ```
    /// # #[global_allocator] static GLOBAL: pymalloc::Pymalloc = pymalloc::Pymalloc::new();
    /// let page = pymalloc::heap_map().to_html();
    /// assert!(page.starts_with("<!doctype html>"));
    /// ```
    pub fn to_html(&self) -> String {
        html::page(self)
    }

    /// Maps the heap; `None` if there is no memory for the map.
    #[cfg(feature = "trace")]
    pub(crate) fn take() -> Option<Self> {
        let mut wanted = 16;
        loop {
            // Before the slow paths are stopped: while they are, nothing can be allocated.
            let mut map = Self::default();
            map.arenas.try_reserve_exact(wanted).ok()?;
            let gathered = map.gather(&mut GLOBAL.stop());
            match gathered {
                Ok(()) => return Some(map),
                Err(count) => wanted = count + count / 8 + 4,
            }
        }
    }

    /// Fills this map, which is empty, from the heap, statistics included.
    ///
    /// # Errors
    /// The number of arenas, if the capacity is too small for them: nothing can be allocated here.
    pub(crate) fn gather(&mut self, stopped: &mut Stopped<'_>) -> Result<(), usize> {
        let Self { arenas, stats, .. } = self;
        stats.add(stopped);
        if stats.arenas_mapped > arenas.capacity() {
            return Err(stats.arenas_mapped);
        }
        stopped.with_state(|state| {
            // Within its capacity: nothing is allocated.
            arenas.extend(state.arenas.iter().map(|arena| ArenaMap {
                address: arena.start().addr(),
                pools: core::array::from_fn(|index| PoolMap::of(PoolRef::at_index(arena, index))),
            }));
        });
        // In place.
        arenas.sort_unstable_by_key(|arena| arena.address);
        for_each_cache(stopped, |cache, door| {
            for block in SizeClass::all().flat_map(|class| cache.all_blocks(class, door)) {
                count_cached(arenas, block.addr(), POOL_BYTES);
            }
            for class in MediumClass::all() {
                cache.all_blocks(class, door).for_each(|block| count_cached(arenas, block.addr(), class.pool_bytes()));
            }
        });
        Ok(())
    }
}

/// Counts a block in a magazine as cached instead of live. Its pool has `pool_bytes` bytes.
fn count_cached(arenas: &mut [ArenaMap], address: usize, pool_bytes: usize) {
    let address = address & !(pool_bytes - 1);
    let start = address & !(ARENA_BYTES - 1);
    let Ok(arena) = arenas.binary_search_by_key(&start, |arena| arena.address) else { return };
    let pool = &mut arenas[arena].pools[(address - start) / POOL_BYTES];
    // A block that moves at this moment may be seen in two magazines.
    if pool.blocks_live > 0 {
        pool.blocks_live -= 1;
        pool.blocks_cached += 1;
    }
}

impl PoolMap {
    fn of(place: PoolRef) -> Self {
        let pool = place.pool();
        let mut map = Self {
            used_for: PoolUse::Unused,
            block_bytes: 0,
            blocks: 0,
            blocks_live: 0,
            blocks_cached: 0,
            blocks_remote: 0,
            blocks_uncarved: 0,
            bytes_untouched: untouched_of(place) as u16,
        };
        match pool.state() {
            State::Unused => {}
            State::Empty => map.used_for = PoolUse::Empty,
            State::Run => map.used_for = PoolUse::Run,
            State::Behind => map.used_for = PoolUse::Behind,
            State::Partial | State::Full => {
                let class = pool.any_class();
                map.used_for = PoolUse::Blocks;
                map.block_bytes = class.block_bytes() as u16;
                map.blocks = class.pool_blocks() as u16;
                // With those in magazines, until `count_cached`.
                map.blocks_live = outside_blocks(place) as u16;
                map.blocks_remote = place.remote_blocks(class) as u16;
                map.blocks_uncarved = pool.uncarved_blocks() as u16;
            }
        }
        map
    }

    /// Two bytes. The first is its class's index plus 1 (0: unused, 254: a part of something larger, 255: empty). The
    /// second is the share of its blocks that are live, in 255ths.
    #[cfg(feature = "trace")]
    pub(crate) fn in_two_bytes(&self) -> [u8; 2] {
        let class = match self.used_for {
            PoolUse::Unused => 0,
            PoolUse::Empty => u8::MAX,
            PoolUse::Blocks => self.class().map_or(0, |class| class.index() as u8 + 1),
            PoolUse::Run | PoolUse::Behind => return [u8::MAX - 1, u8::MAX],
        };
        [class, (self.fullness() * 255.0).ceil() as u8]
    }

    /// The share of live blocks among its blocks, from 0 to 1.
    fn fullness(&self) -> f64 {
        f64::from(self.blocks_live) / f64::from(self.blocks.max(1))
    }

    /// Whether some of its memory was used before and has been given back.
    fn gave_memory_back(&self) -> bool {
        let carved_bytes = usize::from(self.blocks - self.blocks_uncarved) * usize::from(self.block_bytes);
        usize::from(self.bytes_untouched) > POOL_BYTES.saturating_sub(carved_bytes)
    }

    /// Its class, if it has one.
    fn class(&self) -> Option<AnyClass> {
        let bytes = usize::from(self.block_bytes);
        let small = SizeClass::of_size_align(bytes, 1).map(|class| class.index());
        let index = small.or_else(|| MediumClass::of_size_align(bytes, 1).map(|class| class.index()));
        index.map(AnyClass::from_index)
    }
}

/// [`untouched_bytes`] of a pool. For several pools that make one, the first gets its share of the whole.
fn untouched_of(place: PoolRef) -> usize {
    let bytes = untouched_bytes(place);
    match place.pool().state() {
        State::Partial | State::Full => bytes / place.pool().any_class().pool_pools(),
        _ => bytes,
    }
}

// A pool's bytes and blocks fit into the fields.
const _: () = assert!(POOL_BYTES <= u16::MAX as usize);
