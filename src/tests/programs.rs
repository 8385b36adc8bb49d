//! Property tests: programs of operations by several caches against a model of live blocks.
//!
//! One OS thread plays all threads, so that a failure repeats and shrinks; `threads.rs` runs real ones.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use quickcheck::{Arbitrary, Gen, QuickCheck};

use super::test_heap::{Live, TestHeap, alloc, alloc_zeroed, assert_zero, fill_bytes, free_by_spare_set, verify_bytes};
use crate::base::config::{ARENA_BYTES, CLASS_COUNT, MEDIUM_CLASS_COUNT, POOL_BYTES, RUN_MAX_BYTES};
use crate::base::kind::Medium;
use crate::base::size_class::{AnyClass, Class, MediumClass, SizeClass};
use crate::cache::{Slow, ThreadCache, alloc_run};
use crate::heap::ArenaLimits;
use crate::heap::run::RunSize;
use crate::os::MemorySource;
use crate::tests::memory::Memory;

/// Number of threads that a program plays.
const THREADS: usize = 4;

/// One step of a program. A number is taken modulo the number of things it can mean.
#[derive(Clone, Copy, Debug)]
enum Op {
    /// A thread allocates a number of blocks of a class.
    Alloc { thread: u8, class: u8, blocks: u8 },
    /// A thread allocates one zeroed block.
    AllocZeroed { thread: u8, class: u8 },
    /// A thread allocates a number of medium blocks of a class.
    AllocMedium { thread: u8, class: u8, blocks: u8 },
    /// A thread allocates one zeroed medium block.
    AllocZeroedMedium { thread: u8, class: u8 },
    /// Allocates a run of a number of pools, aligned to a power of two.
    AllocRun { pools: u8, align_shift: u8, zeroed: bool },
    /// Resizes a run in place, if that is possible; does nothing to other blocks.
    ResizeRun { place: u16, pools: u8 },
    /// Any thread frees the live block at this place.
    Free { thread: u8, place: u16 },
    /// Frees a number of blocks, lowest address first.
    FreeMany { thread: u8, blocks: u16 },
    /// Moves a block to another class, as `realloc` does.
    Move { thread: u8, place: u16, class: u8 },
    /// Empties a thread's cache.
    Flush { thread: u8 },
    /// Ends a thread, and starts another in its place.
    End { thread: u8 },
    /// Poisons all caches, or lifts the poison.
    Poison { on: bool },
    /// Gives everything free back to the OS.
    Purge,
    /// From now on purging and unmapping fail, or work again. Of the purges that work, one in this many fails (none, if
    /// 0).
    Refuse { purge: bool, unmap: bool, each: u8 },
    /// Only this many further maps succeed.
    Maps { left: u8 },
    /// Only this many further commits succeed, where memory is committed.
    Commits { left: u8 },
    /// Sets the limit of arenas from now on, or lifts it.
    Limit { arenas: u8 },
    /// Runs the self-check in the middle of the program.
    Check,
}

/// Programs have favourite sizes: a few classes with many blocks.
fn arbitrary_class(g: &mut Gen) -> u8 {
    let favourites = [0, 1, 2, 3, 5, 7, 15, 62, 63];
    if bool::arbitrary(g) { *g.choose(&favourites).expect("not empty") } else { u8::arbitrary(g) }
}

impl Arbitrary for Op {
    fn arbitrary(g: &mut Gen) -> Self {
        let thread = u8::arbitrary(g);
        let class = arbitrary_class(g);
        match u8::arbitrary(g) % 36 {
            0..=9 => Self::Alloc { thread, class, blocks: u8::arbitrary(g) },
            10..=11 => Self::AllocZeroed { thread, class },
            12..=19 => Self::Free { thread, place: u16::arbitrary(g) },
            20..=22 => Self::FreeMany { thread, blocks: u16::arbitrary(g) % 1024 },
            23..=24 => Self::Move { thread, place: u16::arbitrary(g), class },
            25 => Self::Flush { thread },
            26 => Self::End { thread },
            27 => Self::Poison { on: bool::arbitrary(g) },
            28 => Self::Purge,
            29 => Self::Refuse { purge: u8::arbitrary(g) < 64, unmap: bool::arbitrary(g), each: u8::arbitrary(g) % 8 },
            30 if bool::arbitrary(g) => Self::Limit { arenas: u8::arbitrary(g) },
            30 if bool::arbitrary(g) => Self::Commits { left: u8::arbitrary(g) },
            30 => Self::Maps { left: u8::arbitrary(g) },
            31 if bool::arbitrary(g) => Self::Check,
            _ => Self::arbitrary_medium(g),
        }
    }
}

impl Op {
    /// A block of the allocator `Medium`.
    fn arbitrary_medium(g: &mut Gen) -> Self {
        let (thread, class) = (u8::arbitrary(g), *g.choose(&[0, 5, 23, 24, 25, 40, 47]).expect("not empty"));
        match u8::arbitrary(g) % 8 {
            0..=2 => Self::AllocMedium { thread, class, blocks: u8::arbitrary(g) % 24 },
            3 => Self::AllocZeroedMedium { thread, class },
            4..=5 => {
                Self::AllocRun { pools: u8::arbitrary(g), align_shift: u8::arbitrary(g), zeroed: bool::arbitrary(g) }
            }
            _ => Self::ResizeRun { place: u16::arbitrary(g), pools: u8::arbitrary(g) },
        }
    }
}

/// A live block of any kind.
#[derive(Debug)]
enum Block {
    Small(Live),
    Medium(Live<Medium>),
    Run { start: *mut u8, pools: usize, seed: u64 },
}

impl Block {
    fn start(&self) -> *mut u8 {
        match self {
            Self::Small(live) => live.start,
            Self::Medium(live) => live.start,
            Self::Run { start, .. } => *start,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Small(live) => live.class.block_bytes(),
            Self::Medium(live) => live.class.block_bytes(),
            Self::Run { pools, .. } => pools * POOL_BYTES,
        }
    }

    fn verify(&self) {
        match self {
            Self::Small(live) => live.verify(),
            Self::Medium(live) => live.verify(),
            Self::Run { start, pools, seed } => verify_bytes(*start, pools * POOL_BYTES, *seed),
        }
    }
}

/// The kind of memory under a heap.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// The system's OS pages.
    Plain,
    /// An OS page holds several pools.
    LargePages,
    /// Memory has to be committed.
    Commits,
}

impl Arbitrary for Kind {
    fn arbitrary(g: &mut Gen) -> Self {
        // No system that commits has OS pages larger than a pool.
        let large = if Memory.commits() { Self::Commits } else { Self::LargePages };
        *g.choose(&[Self::Plain, large, Self::Commits]).expect("not empty")
    }
}

/// The model: live blocks by address, and the threads' caches.
struct World {
    test: TestHeap,
    threads: [Option<&'static ThreadCache>; THREADS],
    live: BTreeMap<usize, Block>,
    serial: u64,
    /// Allocations and frees so far.
    operations: u64,
}

impl World {
    fn new(kind: Kind) -> Self {
        let test = match kind {
            Kind::Plain => TestHeap::with_page_bytes(Memory.page_bytes()),
            Kind::LargePages => TestHeap::with_page_bytes(64 << 10),
            Kind::Commits => TestHeap::that_commits(),
        };
        Self { test, threads: [None; THREADS], live: BTreeMap::new(), serial: 0, operations: 0 }
    }

    /// The thread's cache; `None` when there is no memory for one.
    fn thread(&mut self, thread: u8) -> Option<&'static ThreadCache> {
        let place = &mut self.threads[usize::from(thread) % THREADS];
        if place.is_none() {
            *place = ThreadCache::acquire(self.test.heap);
        }
        *place
    }

    fn next_seed(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    /// Enters a new block; panics if it overlaps a live one or is not aligned as its class promises.
    fn enter(&mut self, block: Block) {
        let (start, bytes) = (block.start().addr(), block.bytes());
        let align = (1 << bytes.trailing_zeros()).min(POOL_BYTES);
        assert!(start.is_multiple_of(align), "block of {bytes} at {start:#x}");
        if let Some((&before, other)) = self.live.range(..start + bytes).next_back() {
            assert!(before + other.bytes() <= start, "block at {start:#x} overlaps one at {before:#x}");
        }
        self.live.insert(start, block);
    }

    fn take(&mut self, place: u16) -> Option<Block> {
        let address = *self.live.keys().nth(usize::from(place) % self.live.len().max(1))?;
        self.live.remove(&address)
    }

    fn alloc<K: Slow>(&mut self, thread: u8, class: Class<K>, zeroed: bool, enter: fn(Live<K>) -> Block) {
        self.operations += 1;
        let seed = self.next_seed();
        let Some(cache) = self.thread(thread) else { return };
        if let Some(block) = (if zeroed { alloc_zeroed } else { alloc })(cache, class, seed) {
            self.enter(enter(block));
        }
    }

    fn alloc_run(&mut self, pools: usize, align_pools: usize, zeroed: bool) {
        self.operations += 1;
        let seed = self.next_seed();
        let Some(run) = alloc_run(self.test.heap, RunSize { pools, align_pools }) else { return };
        let (start, bytes) = (run.start.as_ptr(), pools * POOL_BYTES);
        assert!(start.addr().is_multiple_of(align_pools * POOL_BYTES));
        if zeroed && run.zeroed {
            assert_zero(start, bytes);
        }
        fill_bytes(start, bytes, seed);
        self.enter(Block::Run { start, pools, seed });
    }

    fn resize_run(&mut self, place: u16, wanted: usize) {
        let Some(block) = self.take(place) else { return };
        let Block::Run { start, pools, seed } = block else { return self.enter(block) };
        block.verify();
        let resized = self.test.heap.resize_run(start.addr(), pools, wanted).expect("a run");
        assert!(resized || wanted > pools, "a run can always become shorter");
        let pools = if resized { wanted } else { pools };
        // A pattern for another length does not fit this one.
        fill_bytes(start, pools * POOL_BYTES, seed);
        self.enter(Block::Run { start, pools, seed });
    }

    /// Frees a block by a thread; if that has no cache, as a thread without one does.
    fn free(&mut self, thread: u8, block: Block) {
        match block {
            Block::Small(live) => self.free_block(thread, live),
            Block::Medium(live) => self.free_block(thread, live),
            Block::Run { start, pools, .. } => {
                self.operations += 1;
                block.verify();
                self.test.heap.free_run(start.addr(), pools).expect("a run");
            }
        }
    }

    fn free_block<K: Slow>(&mut self, thread: u8, block: Live<K>) {
        self.operations += 1;
        match self.thread(thread) {
            Some(cache) => block.free(cache),
            None => free_by_spare_set(self.test.heap, block),
        }
    }

    fn run(&mut self, op: Op) {
        let class_of = |class: u8| SizeClass::from_number(usize::from(class) % CLASS_COUNT).expect("in range");
        let medium_of =
            |class: u8| MediumClass::from_number(usize::from(class) % MEDIUM_CLASS_COUNT).expect("in range");
        let pools_of = |pools: u8| usize::from(pools) % (RUN_MAX_BYTES / POOL_BYTES) + 1;
        match op {
            Op::AllocMedium { thread, class, blocks } => {
                for _ in 0..=blocks {
                    self.alloc(thread, medium_of(class), false, Block::Medium);
                }
            }
            Op::AllocZeroedMedium { thread, class } => self.alloc(thread, medium_of(class), true, Block::Medium),
            Op::AllocRun { pools, align_shift, zeroed } => {
                self.alloc_run(pools_of(pools), 1 << (align_shift % 6), zeroed)
            }
            Op::ResizeRun { place, pools } => self.resize_run(place, pools_of(pools)),
            Op::Alloc { thread, class, blocks } => {
                for _ in 0..=blocks {
                    self.alloc(thread, class_of(class), false, Block::Small);
                }
            }
            Op::AllocZeroed { thread, class } => self.alloc(thread, class_of(class), true, Block::Small),
            Op::Free { thread, place } => {
                if let Some(block) = self.take(place) {
                    self.free(thread, block);
                }
            }
            Op::FreeMany { thread, blocks } => {
                for _ in 0..blocks {
                    let Some((_, block)) = self.live.pop_first() else { break };
                    self.free(thread, block);
                }
            }
            Op::Move { thread, place, class } => {
                if let Some(block) = self.take(place) {
                    self.alloc(thread, class_of(class), false, Block::Small);
                    self.free(thread, block);
                }
            }
            Op::Flush { thread } => {
                if let Some(cache) = self.thread(thread) {
                    cache.shrink();
                }
            }
            Op::End { thread } => {
                if let Some(cache) = self.threads[usize::from(thread) % THREADS].take() {
                    cache.release();
                }
            }
            Op::Poison { on } => ThreadCache::poison_all(self.test.heap, on),
            Op::Purge => {
                self.test.purge();
            }
            Op::Refuse { purge, unmap, each } => {
                self.test.memory.refuse_purge.store(purge, Ordering::Relaxed);
                self.test.memory.refuse_each.store(each.into(), Ordering::Relaxed);
                self.test.memory.refuse_unmap.store(unmap, Ordering::Relaxed);
            }
            Op::Maps { left } => {
                // Mostly plenty, because otherwise most programs would soon be out of memory for good.
                let left = if left < 64 { usize::from(left) % 8 } else { usize::MAX };
                self.test.memory.maps_left.store(left, Ordering::Relaxed);
            }
            Op::Commits { left } => {
                // As above.
                let left = if left < 64 { usize::from(left) % 8 } else { usize::MAX };
                self.test.memory.commits_left.store(left, Ordering::Relaxed);
            }
            Op::Limit { arenas } => {
                // Mostly none, as above.
                let arenas = if arenas < 64 { usize::from(arenas) % 8 } else { usize::MAX };
                self.test.heap.set_arena_limits(ArenaLimits::of_hard(arenas));
            }
            Op::Check => self.check(),
        }
    }

    /// Checks that the heap is sound, and that it has exactly the live blocks that the model has.
    fn check(&self) {
        let stats = self.test.check();
        self.test.check_memory();
        let mut live = [0; CLASS_COUNT + MEDIUM_CLASS_COUNT];
        let (mut live_bytes, mut runs, mut run_bytes) = (0, 0, 0);
        for block in self.live.values() {
            block.verify();
            let index = match block {
                Block::Small(live) => live.class.index(),
                Block::Medium(live) => live.class.index(),
                Block::Run { .. } => {
                    runs += 1;
                    run_bytes += block.bytes();
                    continue;
                }
            };
            live[index] += 1;
            live_bytes += block.bytes();
        }
        for (index, class) in stats.classes.iter().chain(&stats.medium).enumerate() {
            assert_eq!(class.blocks_live, live[index], "live blocks of {} bytes", class.block_bytes);
            let pool_blocks = AnyClass::from_index(index).pool_blocks();
            assert_eq!(class.blocks(), class.pools * pool_blocks, "blocks of {} bytes", class.block_bytes);
        }
        assert_eq!((stats.runs_live, stats.bytes.runs), (runs, run_bytes));
        assert_eq!(stats.bytes.live, live_bytes);
        assert_eq!(stats.bytes.sum(), stats.arenas_mapped * ARENA_BYTES, "{stats}");
    }

    /// Frees everything, and checks that nothing is left. Returns the number of allocations and frees.
    fn finish(mut self) -> u64 {
        self.check();
        self.run(Op::Refuse { purge: false, unmap: false, each: 0 });
        while let Some((_, block)) = self.live.pop_last() {
            self.free(self.serial as u8, block);
            self.serial += 1;
        }
        for cache in self.threads.iter_mut().filter_map(Option::take) {
            cache.release();
        }
        self.check();
        self.test.purge();
        let stats = self.test.check();
        assert_eq!(stats.arenas_mapped, 0, "{stats}");
        assert_eq!(stats.blocks_live(), 0);
        self.operations
    }
}

/// Allocations and frees of all programs that passed.
static OPERATIONS: AtomicU64 = AtomicU64::new(0);

/// Runs a program on a heap with this kind of memory.
fn run_program(kind: Kind, program: Vec<Op>) -> bool {
    let mut world = World::new(kind);
    for op in program {
        world.run(op);
    }
    OPERATIONS.fetch_add(world.finish(), Ordering::Relaxed);
    true
}

/// Most steps of a program.
const STEPS_MAX: usize = if cfg!(miri) { 30 } else { 200 };

/// Programs to run: a few hundred in the test command, or as many as `PYMALLOC_PROGRAMS` says.
fn programs() -> u64 {
    let usual = if cfg!(miri) { 2 } else { 300 };
    std::env::var("PYMALLOC_PROGRAMS").ok().and_then(|number| number.parse().ok()).unwrap_or(usual)
}

#[test]
fn programs_of_operations_keep_the_heap_sound_and_every_block_intact() {
    QuickCheck::new()
        .rng(Gen::new(STEPS_MAX))
        .tests(programs())
        .max_tests(programs())
        .quickcheck(run_program as fn(Kind, Vec<Op>) -> bool);
    println!("{} programs, {} allocations and frees", programs(), OPERATIONS.load(Ordering::Relaxed));
}
