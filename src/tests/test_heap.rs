//! A heap for one test, and the caches on top of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicPtr;
use std::sync::atomic::Ordering::Relaxed;

use crate::base::config::{POOL_BYTES, POOLS_PER_ARENA, PURGE_UNIT_BYTES};
use crate::base::kind::{Kind, Small};
use crate::base::size_class::{Class, SizeClass};
use crate::cache::hardened;
use crate::cache::{Slow, ThreadCache, take_spare};
use crate::heap::Heap;
use crate::heap::arena::{ArenaRef, PoolRef};
use crate::heap::pool::Block;
use crate::heap::pool::Slot;
use crate::heap::pool::State;
use crate::heap::set::tag_set;
use crate::inspect::check::{Corruption, check};
use crate::inspect::stats::Stats;
use crate::observe::Request;
use crate::os::MemorySource;
use crate::purge::heap::purge_heap;
use crate::tests::memory::Memory;
use crate::tests::test_memory::TestMemory;

/// A heap with its memory source. Everything that the heap mapped is unmapped when this is dropped.
pub(crate) struct TestHeap {
    pub(crate) heap: &'static Heap,
    pub(crate) memory: &'static TestMemory,
    /// The pointers by which the two are dropped.
    own: (AtomicPtr<Heap>, AtomicPtr<TestMemory>),
}

impl TestHeap {
    /// A heap with the system's OS pages, or with larger ones of `PYMALLOC_OS_PAGE_BYTES`, if that is set. Memory has
    /// to be committed where the system wants that, or `PYMALLOC_COMMITS` is set.
    pub(crate) fn new() -> Self {
        Self::with_page_bytes(wanted_page_bytes())
    }

    pub(crate) fn with_page_bytes(page_bytes: usize) -> Self {
        // No system that commits has OS pages larger than a pool.
        let is_asked = || std::env::var_os("PYMALLOC_COMMITS").is_some() && page_bytes <= POOL_BYTES;
        let commits = Memory.commits() || is_asked();
        Self::with_memory(TestMemory::new(page_bytes, commits))
    }

    /// Over memory that need not be committed, whatever the variables ask for. For tests of steps that are left out
    /// where memory has to be committed.
    pub(crate) fn without_commits() -> Self {
        Self::with_memory(TestMemory::new(wanted_page_bytes(), false))
    }

    /// Over memory that has to be committed.
    pub(crate) fn that_commits() -> Self {
        Self::with_memory(TestMemory::new(Memory.page_bytes(), true))
    }

    fn with_memory(memory: TestMemory) -> Self {
        let own_memory = Box::into_raw(Box::new(memory));
        // SAFETY: lives as long as the heap, which lives until `drop`.
        let memory = unsafe { &*own_memory };
        let own_heap = Box::into_raw(Box::new(Heap::with_source(memory)));
        // SAFETY: as above.
        Self { heap: unsafe { &*own_heap }, memory, own: (AtomicPtr::new(own_heap), AtomicPtr::new(own_memory)) }
    }

    /// Acquires a cache, as a thread does.
    pub(crate) fn attach(&self) -> &'static ThreadCache {
        ThreadCache::acquire(self.heap).expect("memory for a cache")
    }

    /// Runs the self-check, and checks the counts of each set and cache. Panics if one is wrong.
    pub(crate) fn check(&self) -> Stats {
        let stats = self.try_check().unwrap_or_else(|corruption| panic!("{corruption}"));
        self.check_accounts();
        stats
    }

    /// Compares the counts of each set and cache with what it has. (The self-check, which may not allocate, checks only
    /// the sums.)
    fn check_accounts(&self) {
        let mut stopped = self.heap.stop();
        let mut owned = BTreeMap::<usize, (usize, usize)>::new();
        let mut count = |place: PoolRef| {
            if let Some(set) = tag_set(place.tag().load(Relaxed)) {
                let (pools, bytes) = owned.entry(set.addr().get()).or_default();
                *pools += 1;
                *bytes += place.pool().used() as usize * place.pool().any_class().block_bytes();
            }
        };
        stopped.with_state(|state| {
            let places = |arena| (0..POOLS_PER_ARENA).map(move |index| PoolRef::at_index(arena, index));
            state.arenas.iter().flat_map(places).for_each(&mut count);
        });
        for set in self.heap.sets() {
            let own = owned.remove(&set.addr().get()).unwrap_or_default();
            let counted = stopped.with_pools(set, |pools| (pools.owned_count(), pools.used_bytes()));
            assert_eq!(counted, own, "pools of a set, and bytes in use");
            // SAFETY: a registered set; caches are never unmapped.
            unsafe {
                if let Some(cache) = ThreadCache::of_set(self.heap, set) {
                    let (counted, stowed) = cache.as_ref().depot_blocks(stopped.door());
                    assert_eq!(counted, stowed, "blocks in depots");
                }
            }
        }
    }

    /// Compares the heap's notes on its memory with the memory itself: what it notes as zero is zero, and what it
    /// counts as given back was given back. Reads all arenas.
    pub(super) fn check_memory(&self) {
        let check_pool = |place: PoolRef| {
            let pool = place.pool();
            let pools = match pool.state() {
                // All bytes of a run belong to the program. The other pools of several are checked with the first.
                State::Run | State::Behind => return,
                State::Unused => 1,
                State::Empty | State::Partial | State::Full => pool.any_class().pool_pools(),
            };
            let unit_bytes = pools * PURGE_UNIT_BYTES;
            let zeros = vec![0; unit_bytes];
            // SAFETY: a pool's memory, which is mapped while its arena is in the table; no thread of a test writes to
            // it now.
            let memory = unsafe { std::slice::from_raw_parts(place.start(), pools * POOL_BYTES) };
            for (part, bytes) in memory.chunks(unit_bytes).enumerate() {
                if self.memory.commits
                    && (!(place.is_any_backed(pools) || pool.is_touched()) || pool.purged() >> part & 1 == 1)
                {
                    // Not committed.
                    continue;
                }
                let touched = pool.touched_bytes().saturating_sub(part * unit_bytes).min(unit_bytes);
                let touched = if pool.purged() >> part & 1 == 1 { 0 } else { touched };
                assert!(bytes[touched..] == zeros[touched..], "what counts as untouched or purged is not zero");
            }
        };
        self.heap.with_state(|state, _| {
            let places = |arena| (0..POOLS_PER_ARENA).map(move |index| PoolRef::at_index(arena, index));
            state.arenas.iter().flat_map(places).for_each(check_pool);
            let given_back_bytes = self.memory.given_back_bytes.load(Relaxed);
            assert_eq!(state.arenas.bytes_given_back(), given_back_bytes, "bytes given back");
        });
    }

    /// The self-check.
    pub(crate) fn try_check(&self) -> Result<Stats, Corruption> {
        check(&mut self.heap.stop())
    }

    /// Number of blocks in the depots of a cache.
    pub(super) fn depot_blocks(&self, cache: &ThreadCache) -> usize {
        cache.set.enter(self.heap, |inside| cache.depot_blocks(inside.door()).0)
    }

    /// Number of pools that no set owns and that have memory, as far as is known.
    pub(super) fn dirty_pools(&self) -> usize {
        let dirty = |arena: ArenaRef| arena.dirty.get().count_ones() as usize;
        self.heap.with_state(|state, _| state.arenas.iter().map(dirty).sum())
    }

    /// Number of free blocks in magazines, depots and quarantines, as the self-check counts them.
    pub(super) fn blocks_cached(&self) -> usize {
        self.check().classes.iter().map(|class| class.blocks_cached).sum()
    }

    pub(crate) fn purge(&self) -> usize {
        purge_heap(self.heap)
    }

    /// Panics unless sweeps gave back more than `least` bytes; where OS pages are larger than parts of pools, unless
    /// they gave back none.
    pub(super) fn assert_swept(&self, bytes: usize, least: usize) {
        if self.memory.purges_parts() {
            assert!(bytes > least, "{bytes} bytes");
        } else {
            assert_eq!(bytes, 0);
        }
    }
}

/// Bytes of an OS page for tests: `PYMALLOC_OS_PAGE_BYTES` if that is set, otherwise the system's.
fn wanted_page_bytes() -> usize {
    let system = Memory.page_bytes();
    let wanted =
        std::env::var("PYMALLOC_OS_PAGE_BYTES").map_or(system, |bytes| bytes.parse().expect("a number of bytes"));
    assert!(
        wanted.is_power_of_two() && wanted >= system,
        "PYMALLOC_OS_PAGE_BYTES: {wanted}, where OS pages have {system}"
    );
    wanted
}

impl Drop for TestHeap {
    fn drop(&mut self) {
        // SAFETY: tests join their threads and end all uses of their caches before they drop the heap, so nothing
        // refers to it now.
        unsafe {
            drop(Box::from_raw(*self.own.0.get_mut()));
            let memory = Box::from_raw(*self.own.1.get_mut());
            for mapping in memory.mapped.lock().expect("no test panicked with it").values() {
                Memory.unmap(mapping.start, mapping.bytes);
            }
        }
    }
}

/// A live block, filled with a pattern of its own.
#[derive(Debug)]
pub(crate) struct Live<K = Small> {
    pub(crate) start: *mut u8,
    pub(crate) class: Class<K>,
    seed: u64,
}

// SAFETY: any thread may free a block that it holds.
unsafe impl<K> Send for Live<K> {}

/// The words of a block that are checked: all, or, of a long block, its first, its last, and some of each OS page.
fn marked_words(bytes: usize) -> impl Iterator<Item = usize> {
    let words = bytes / 8;
    (0..words).step_by(if bytes > 1024 { 61 } else { 1 }).chain([words - 1])
}

/// The value that fills the word at `index` of a block.
fn pattern(seed: u64, index: usize) -> u64 {
    (seed ^ index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Fills a block of `bytes` bytes, which belongs to the caller.
pub(super) fn fill_bytes(start: *mut u8, bytes: usize, seed: u64) {
    for index in marked_words(bytes) {
        // SAFETY: blocks are aligned to 8 bytes, and this one is the caller's.
        unsafe { start.cast::<u64>().add(index).write(pattern(seed, index)) };
    }
}

/// Panics unless the first `bytes` bytes of a block are unchanged.
pub(super) fn verify_bytes(start: *const u8, bytes: usize, seed: u64) {
    for index in marked_words(bytes) {
        // SAFETY: as above.
        let word = unsafe { start.cast::<u64>().add(index).read() };
        assert_eq!(word, pattern(seed, index), "contents of a block of {bytes} changed");
    }
}

/// Panics unless `bytes` bytes, which belong to the caller, are zero.
pub(super) fn assert_zero(start: *const u8, bytes: usize) {
    // SAFETY: the caller's.
    let bytes = unsafe { std::slice::from_raw_parts(start, bytes) };
    assert!(bytes.chunks(4096).all(|part| part == &[0; 4096][..part.len()]), "a zeroed block is not zero");
}

impl<K: Slow> Live<K> {
    /// Takes over a block and fills it.
    pub(crate) fn fill(start: *mut u8, class: Class<K>, seed: u64) -> Self {
        fill_bytes(start, class.block_bytes(), seed);
        Self { start, class, seed }
    }

    /// Panics unless the contents are unchanged.
    pub(crate) fn verify(&self) {
        verify_bytes(self.start, self.class.block_bytes(), self.seed);
    }

    /// Verifies the block and frees it by `cache`.
    pub(crate) fn free(self, cache: &ThreadCache) {
        self.verify();
        // SAFETY: the block is ours, and is given up.
        unsafe { cache.free(self.class, self.start) };
    }
}

/// Frees a block as a thread without a cache does.
pub(crate) fn free_by_spare_set<K: Slow>(heap: &'static Heap, block: Live<K>) {
    block.verify();
    hardened::freed_spare(heap, block.class, block.start);
    heap.spare.enter(heap, |inside| inside.give(block.class, &[Slot::new(block.start)]));
}

/// Takes a block as a thread without a cache does.
pub(crate) fn take_by_spare_set(heap: &'static Heap, class: SizeClass) -> Option<Block> {
    take_spare(heap, class)
}

/// Allocates by `cache`; `None` when there is no memory.
pub(crate) fn alloc<K: Slow>(cache: &ThreadCache, class: Class<K>, seed: u64) -> Option<Live<K>> {
    let start = cache.alloc(class, Request::of_bytes(class.block_bytes()));
    (!start.is_null()).then(|| Live::fill(start, class, seed))
}

/// Allocates `bytes` bytes by `cache`, in blocks of one class.
pub(crate) fn fill(cache: &ThreadCache, block_bytes: usize, bytes: usize) -> Vec<Live> {
    (0..bytes / block_bytes).map(|seed| alloc(cache, class(block_bytes), seed as u64).expect("memory")).collect()
}

/// Divides blocks into the first of each stretch of `bytes` bytes (a pool, an arena), and all others.
pub(super) fn one_of_each(bytes: usize, live: Vec<Live>) -> (Vec<Live>, Vec<Live>) {
    let mut seen = BTreeSet::new();
    live.into_iter().partition(|block| seen.insert(block.start.addr() / bytes))
}

/// Divides blocks into one in `every`, beginning with the first, and all others.
pub(super) fn one_in<K: Kind>(every: usize, live: Vec<Live<K>>) -> (Vec<Live<K>>, Vec<Live<K>>) {
    let mut index = 0..;
    live.into_iter().partition(|_| index.next().is_some_and(|index: usize| index.is_multiple_of(every)))
}

/// Slots of the magazine of `class`.
pub(super) fn slots(cache: &ThreadCache, class: SizeClass) -> usize {
    cache.set.door.lock().with(|pools| cache.slots(class, pools.door()))
}

/// Calls that took the slow path.
pub(crate) fn slow_calls(cache: &ThreadCache) -> u64 {
    cache.set.door.lock().with(|pools| cache.slow_calls(pools.door()))
}

/// Allocates a zeroed block by `cache`; `None` when there is no memory. Panics unless every byte is zero.
pub(crate) fn alloc_zeroed<K: Slow>(cache: &ThreadCache, class: Class<K>, seed: u64) -> Option<Live<K>> {
    let start = cache.alloc_zeroed(class, Request::of_bytes(class.block_bytes()));
    if start.is_null() {
        return None;
    }
    assert_zero(start, class.block_bytes());
    Some(Live::fill(start, class, seed))
}

/// The class with blocks of `block_bytes` bytes.
pub(crate) fn class(block_bytes: usize) -> SizeClass {
    SizeClass::of_size_align(block_bytes, 1).expect("a small size")
}
