//! The picture of the heap: every arena a grid of its pools, and fragmentation by class.
//!
//! The data is gathered here, in one walk while the slow paths are stopped; `svg` draws it, `html` makes a page of the
//! drawing.

mod colours;
mod html;
mod layout;
mod svg;

use crate::base::config::{ARENA_BYTES, POOL_BYTES, POOLS_PER_ARENA};
use crate::base::size_class::{AnyClass, MediumClass, SizeClass};
use crate::heap::Stopped;
use crate::heap::arena::PoolRef;
use crate::heap::pool::State;
use crate::inspect::stats::{Stats, for_each_cache, outside_blocks, untouched_bytes};

/// What a pool is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum PoolUse {
    /// No thread owns it.
    Unused,
    /// A thread keeps it, empty, for its next need.
    Empty,
    /// It holds blocks of a size class. If they are larger than 4 KiB, it is the first of eight pools that hold them.
    Blocks,
    /// It is the first of a run, one block of several pools in the program's hands.
    Run,
    /// It is behind the first of several, which has the counts.
    Behind,
}

/// One pool, by [`heap_map`](crate::heap_map()).
///
/// The counts of blocks are 0 but for [`PoolUse::Blocks`]; with the first of several pools are those of all. Blocks that are in none of them are free, in memory used
/// before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct PoolMap {
    /// What it is used for.
    pub used_for: PoolUse,
    /// Bytes of one of its blocks.
    pub block_bytes: u16,
    /// All its blocks.
    pub blocks: u16,
    /// Blocks in the program's hands.
    pub blocks_live: u16,
    /// Free blocks in thread caches.
    pub blocks_cached: u16,
    /// Free blocks that other threads gave back and were not collected yet.
    pub blocks_remote: u16,
    /// Free blocks whose memory was never used since it was mapped or purged.
    pub blocks_uncarved: u16,
    /// Bytes that take no memory: never touched since they were mapped or purged.
    pub bytes_untouched: u16,
}

/// One arena, by [`heap_map`](crate::heap_map()).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct ArenaMap {
    /// Address of its first byte.
    pub address: usize,
    /// Its pools, lowest address first.
    #[cfg_attr(feature = "serde", serde(with = "crate::inspect::stats::serial"))]
    pub pools: [PoolMap; POOLS_PER_ARENA],
}

/// Every pool of the heap, by [`heap_map`](crate::heap_map()): data, and pictures of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct HeapMap {
    /// The title of the pictures.
    pub title: String,
    /// The arenas, lowest address first.
    pub arenas: Vec<ArenaMap>,
    /// The counts of the same moment.
    pub stats: Stats,
}

impl HeapMap {
    /// The same with a title for the pictures. Any text will do.
    #[must_use]
    pub fn with_title(mut self, title: impl Into<String>) -> Self {
        self.title = title.into();
        self
    }

    /// Draws it as an SVG picture: the arenas as grids of pools, lowest addresses first, and beside them fragmentation
    /// by size class.
    ///
    /// A pool has its class's colour, the stronger the more of its blocks are live. Many arenas are drawn small, and
    /// those beyond 1600 are left out (and said to be).
    ///
    /// ```
    /// # #[global_allocator] static GLOBAL: pymalloc::Pymalloc = pymalloc::Pymalloc::new();
    /// let picture = pymalloc::heap_map().with_title("At the start").to_svg();
    /// assert!(picture.starts_with("<svg") && picture.contains("At the start"));
    /// ```
    pub fn to_svg(&self) -> String {
        svg::draw(self)
    }

    /// Makes a page of the picture, which needs no other file: pointing at a pool tells its counts, pointing at a class
    /// shows where its pools are.
    ///
    /// ```
    /// # #[global_allocator] static GLOBAL: pymalloc::Pymalloc = pymalloc::Pymalloc::new();
    /// let page = pymalloc::heap_map().to_html();
    /// assert!(page.starts_with("<!doctype html>"));
    /// ```
    pub fn to_html(&self) -> String {
        html::page(self)
    }

    /// Maps the heap into this map, which is empty, and counts it.
    ///
    /// # Errors
    /// The number of arenas, when there is too little capacity for them: nothing can be allocated here.
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

/// Takes a block that is in a magazine off the live ones of its pool, of so many bytes.
fn count_cached(arenas: &mut [ArenaMap], address: usize, pool_bytes: usize) {
    let address = address & !(pool_bytes - 1);
    let start = address & !(ARENA_BYTES - 1);
    let Ok(arena) = arenas.binary_search_by_key(&start, |arena| arena.address) else { return };
    let pool = &mut arenas[arena].pools[(address - start) / POOL_BYTES];
    // One that came into a magazine just now, from the program, may be in two.
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
                // Magazines' included, for now.
                map.blocks_live = outside_blocks(place) as u16;
                map.blocks_remote = place.remote_blocks(class) as u16;
                map.blocks_uncarved = pool.uncarved_blocks() as u16;
            }
        }
        map
    }

    /// The share of its blocks that are live, 0 to 1.
    fn fullness(&self) -> f64 {
        f64::from(self.blocks_live) / f64::from(self.blocks.max(1))
    }

    /// Whether memory of it that was used before takes none now.
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

/// [`untouched_bytes`] of a pool; of several that are one, those of the first are the whole's share.
fn untouched_of(place: PoolRef) -> usize {
    let bytes = untouched_bytes(place);
    match place.pool().state() {
        State::Partial | State::Full => bytes / place.pool().any_class().pool_pools(),
        _ => bytes,
    }
}

// A pool's bytes and blocks fit the fields.
const _: () = assert!(POOL_BYTES <= u16::MAX as usize);
