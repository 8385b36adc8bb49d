//! Property tests of memory: programs of phases, in which a few threads work on a few classes and the others sleep. The
//! oracle is the bound of `docs/design/10-memory-return.md` (*Threads that sleep for good*): after each phase and a
//! purge by any thread, only the OS pages of live blocks and of blocks in magazines are resident.

use std::collections::BTreeSet;

use quickcheck::{Arbitrary, Gen, QuickCheck};

use super::test_heap::{Live, TestHeap, alloc, fill};
use crate::base::config::{CLASS_COUNT, POOL_BYTES};
use crate::base::size_class::SizeClass;
use crate::cache::ThreadCache;
use crate::cache::hardened::QUARANTINE_SLOTS;
use crate::os::MemorySource;

/// Number of threads that a program plays.
const THREADS: usize = 4;
const PHASES_MAX: usize = 12;

/// A peak of blocks of two classes, of which one block in `keep` stays; then work on the first class.
#[derive(Clone, Copy, Debug)]
struct Phase {
    owner: usize,
    /// The owner or another thread frees the owner's blocks.
    freer: usize,
    classes: [usize; 2],
    peak_bytes: usize,
    keep: usize,
    shuffled: bool,
}

impl Arbitrary for Phase {
    fn arbitrary(g: &mut Gen) -> Self {
        // Mostly classes of large blocks: the fewer blocks a peak has, the more programs can run.
        let class = |g: &mut Gen| [7, 15, 20, 31, 40, 50, 62, 63][usize::arbitrary(g) % 8];
        Self {
            owner: usize::arbitrary(g) % THREADS,
            freer: usize::arbitrary(g) % THREADS,
            classes: [class(g), class(g)],
            peak_bytes: (2 + usize::arbitrary(g) % 7) << 20,
            keep: [100, 1000, usize::MAX][usize::arbitrary(g) % 3],
            shuffled: bool::arbitrary(g),
        }
    }
}

struct World {
    test: TestHeap,
    threads: [&'static ThreadCache; THREADS],
    /// The class on which each thread worked last.
    last: [Option<SizeClass>; THREADS],
    live: Vec<Live>,
}

fn nth_class(number: usize) -> SizeClass {
    SizeClass::from_number(number % CLASS_COUNT).expect("in range")
}

/// Puts the blocks into random order.
fn shuffle(blocks: &mut [Live]) {
    let mut random = 1_usize;
    for last in (1..blocks.len()).rev() {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        blocks.swap(last, (random >> 32) % (last + 1));
    }
}

impl World {
    fn new() -> Self {
        let test = TestHeap::new();
        Self { threads: std::array::from_fn(|_| test.attach()), last: [None; THREADS], live: Vec::new(), test }
    }

    fn run(&mut self, phase: Phase) {
        let classes = phase.classes.map(nth_class);
        let owner = self.threads[phase.owner];
        let mut peak: Vec<Live> = classes
            .iter()
            .flat_map(|&class| (0..phase.peak_bytes / 2 / class.block_bytes()).map(move |seed| (class, seed)))
            .map(|(class, seed)| alloc(owner, class, seed as u64).expect("memory"))
            .collect();
        if phase.shuffled {
            shuffle(&mut peak);
        }
        for (index, block) in peak.into_iter().enumerate() {
            if index % phase.keep == phase.keep - 1 {
                self.live.push(block);
            } else {
                block.free(self.threads[phase.freer]);
            }
        }
        for thread in [phase.owner, phase.freer] {
            self.work(thread, classes[0]);
        }
    }

    /// Allocates and frees until every class has been visited twice: blocks of the other classes have gone home by
    /// then.
    fn work(&mut self, thread: usize, class: SizeClass) {
        let cache = self.threads[thread];
        // Not by slow calls: a visit that is due at a call that pops or pushes at once falls out.
        let visits = || cache.set.door.lock().with(|pools| cache.visits_made(pools.door()));
        let end = visits() + 2 * CLASS_COUNT as u64;
        while visits() < end {
            fill(cache, class.block_bytes(), 2 * POOL_BYTES).into_iter().for_each(|block| block.free(cache));
        }
        self.last[thread] = Some(class);
    }

    /// The free blocks in the cache of `thread`. Panics if some are not of the class on which the thread worked last.
    fn cached(&self, thread: usize) -> Vec<(usize, SizeClass)> {
        let cache = self.threads[thread];
        cache.set.door.lock().with(|pools| {
            let of_class = |class| cache.all_blocks(class, pools.door()).map(move |block| (block.addr(), class));
            let blocks: Vec<_> = SizeClass::all().flat_map(of_class).collect();
            assert!(blocks.iter().all(|&(_, class)| Some(class) == self.last[thread]), "unused blocks were flushed");
            blocks
        })
    }

    /// Bytes that may be resident after a purge: the OS pages of live blocks and of blocks in caches.
    fn bound_bytes(&self) -> usize {
        // Parts of pools are purged only where an OS page is no larger than one.
        let memory = &self.test.memory;
        let page_bytes = if memory.purges_parts() { memory.page_bytes() } else { memory.page_bytes().max(POOL_BYTES) };
        let live = self.live.iter().map(|block| (block.start.addr(), block.class));
        let cached = (0..THREADS).flat_map(|thread| self.cached(thread));
        let pages_of =
            |(start, class): (usize, SizeClass)| start / page_bytes..=(start + class.block_bytes() - 1) / page_bytes;
        live.chain(cached).flat_map(pages_of).collect::<BTreeSet<usize>>().len() * page_bytes
    }
}

#[test]
fn a_phase_in_which_a_visit_falls_out_is_followed_all_the_same() {
    let phase =
        |owner, freer, classes, peak_bytes| Phase { owner, freer, classes, peak_bytes, keep: 100, shuffled: false };
    assert!(memory_follows(vec![phase(1, 0, [40, 62], 2 << 20), phase(0, 3, [20, 50], 7 << 20)]));
}

fn memory_follows(phases: Vec<Phase>) -> bool {
    let mut world = World::new();
    for (number, phase) in phases.into_iter().enumerate() {
        world.run(phase);
        world.test.purge();
        // `hardened` looks at free blocks, too, and an OS page that was read counts as resident.
        let read_pages = if cfg!(feature = "hardened") { THREADS * QUARANTINE_SLOTS } else { 0 };
        let bound = world.bound_bytes() + read_pages * world.test.memory.page_bytes();
        let resident = world.test.memory.resident_bytes();
        assert!(resident <= bound, "after phase {number}: {resident} bytes are resident, more than {bound}");
        world.test.check();
    }
    true
}

/// Programs to run: a few in the test command, or as many as `PYMALLOC_PROGRAMS` says.
fn programs() -> u64 {
    std::env::var("PYMALLOC_PROGRAMS").ok().and_then(|number| number.parse().ok()).unwrap_or(8)
}

#[test]
fn after_any_phases_and_a_purge_sleeping_threads_keep_their_magazines_and_nothing_else() {
    let test = memory_follows as fn(Vec<Phase>) -> bool;
    QuickCheck::new().rng(Gen::new(PHASES_MAX)).tests(programs()).max_tests(programs()).quickcheck(test);
}
