//! Runs a program against a model of live blocks; panics if anything is wrong.

use core::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::base::config::{CLASS_COUNT, MEDIUM_CLASS_COUNT, POOL_BYTES};
use crate::base::kind::{Medium, Small};
use crate::base::size_class::{AnyClass, Class};
use crate::cache::{ThreadCache, alloc_run};
use crate::heap::pool::Slot;
use crate::heap::run::RunSize;
use crate::heap::{ArenaLimits, Heap};
use crate::inspect::check::check;
use crate::inspect::stats::Stats;
use crate::observe::Request;
use crate::os;
use crate::program::{Op, Program, RunAct};
use crate::purge::heap::purge_heap;
use crate::purge::tick::Ticker;
use crate::scheduler::{self, THREADS, Trace};

/// The most blocks that a program has at a time, so that no program takes long.
const LIVE_MAX: usize = 4_000;
/// The same of runs.
const RUNS_MAX: usize = 40;

/// A live block and what it is filled with.
struct Live {
    start: *mut u8,
    class: AnyClass,
    seed: u64,
}

/// Runs `$body` with the class of either kind that `$class` stands for.
macro_rules! of_its_kind {
    ($class:expr, $name:ident => $body:expr) => {
        match Class::<Small>::from_index($class.index()) {
            Some($name) => $body,
            None => {
                let $name = Class::<Medium>::from_index($class.index()).expect("one of the two kinds");
                $body
            }
        }
    };
}

impl Live {
    fn fill(start: *mut u8, class: AnyClass, seed: u64) -> Self {
        let live = Self { start, class, seed };
        for index in 0..class.block_bytes() / 8 {
            // SAFETY: blocks are aligned to 8 bytes, and this one is ours.
            unsafe { start.cast::<u64>().add(index).write(live.pattern(index)) };
        }
        live
    }

    fn pattern(&self, index: usize) -> u64 {
        (self.seed ^ index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1
    }

    fn verify(&self) {
        for index in 0..self.class.block_bytes() / 8 {
            // SAFETY: as in `fill`.
            let word = unsafe { self.start.cast::<u64>().add(index).read() };
            assert_eq!(word, self.pattern(index), "contents of a live block changed");
        }
    }
}

/// A live run of pools. The first word of each pool is the run's seed.
struct Run {
    start: *mut u8,
    pools: usize,
    seed: u64,
}

impl Run {
    fn words(&self) -> impl Iterator<Item = *mut u64> {
        let start = self.start;
        (0..self.pools).map(move |pool| start.wrapping_add(pool * POOL_BYTES).cast())
    }

    fn fill(&self) {
        // SAFETY: in a run that is ours.
        self.words().for_each(|word| unsafe { word.write(self.seed) });
    }

    fn verify(&self) {
        // SAFETY: as in `fill`.
        let same = self.words().all(|word| unsafe { word.read() } == self.seed);
        assert!(same, "contents of a live run changed");
    }
}

struct World {
    heap: &'static Heap,
    /// The blocks that an operation may take.
    live: RefCell<Vec<Live>>,
    /// The runs that an operation may take.
    runs: RefCell<Vec<Run>>,
    /// All live blocks and runs: their bytes by their addresses.
    extents: RefCell<BTreeMap<usize, usize>>,
    caches: [Cell<Option<&'static ThreadCache>>; THREADS],
    serial: Cell<u64>,
    /// Whether a thread is poisoning: only one at a time may.
    poisoning: Cell<bool>,
    /// The purge thread's state; `None` while a thread plays its part.
    ticker: Cell<Option<Ticker>>,
}

impl World {
    fn cache(&self, thread: usize) -> Option<&'static ThreadCache> {
        if self.caches[thread].get().is_none() {
            self.caches[thread].set(ThreadCache::acquire(self.heap));
        }
        self.caches[thread].get()
    }

    fn next_seed(&self) -> u64 {
        self.serial.set(self.serial.get() + 1);
        self.serial.get()
    }

    fn alloc(&self, thread: usize, class: AnyClass, zeroed: bool) {
        let Some(cache) = self.cache(thread) else { return };
        if self.live.borrow().len() >= LIVE_MAX {
            return;
        }
        let request = Request::of_bytes(class.block_bytes());
        let start = of_its_kind!(class, known => match zeroed {
            true => cache.alloc_zeroed(known, request),
            false => cache.alloc(known, request),
        });
        if start.is_null() {
            return;
        }
        let (address, bytes) = (start.addr(), class.block_bytes());
        assert!(address.is_multiple_of(1 << bytes.trailing_zeros()), "a block of {bytes} is not aligned");
        if zeroed {
            // SAFETY: a block of the class, ours.
            let bytes = unsafe { core::slice::from_raw_parts(start, bytes) };
            assert!(bytes.iter().all(|&byte| byte == 0), "a zeroed block is not zero");
        }
        let live = Live::fill(start, class, self.next_seed());
        self.note_extent(address, bytes);
        self.live.borrow_mut().push(live);
    }

    /// Notes that these bytes are live now.
    fn note_extent(&self, address: usize, bytes: usize) {
        let mut extents = self.extents.borrow_mut();
        if let Some((&before, &other_bytes)) = extents.range(..address + bytes).next_back() {
            assert!(before + other_bytes <= address, "a block overlaps a live one");
        }
        extents.insert(address, bytes);
    }

    /// Notes that these bytes are live no longer.
    fn forget_extent(&self, address: usize, bytes: usize) {
        assert_eq!(self.extents.borrow_mut().remove(&address), Some(bytes), "the model knows its blocks");
    }

    fn take_run(&self, place: usize) -> Option<Run> {
        let mut runs = self.runs.borrow_mut();
        let count = runs.len();
        (count > 0).then(|| runs.swap_remove(place % count))
    }

    fn run_on_run(&self, act: RunAct, place: usize, size: RunSize) {
        match act {
            RunAct::Alloc => self.alloc_run(size),
            RunAct::Resize => {
                if let Some(run) = self.take_run(place) {
                    self.resize_run(run, size.pools);
                }
            }
            RunAct::Free => {
                if let Some(run) = self.take_run(place) {
                    self.free_run(&run);
                }
            }
        }
    }

    fn alloc_run(&self, size: RunSize) {
        if self.runs.borrow().len() >= RUNS_MAX {
            return;
        }
        let Some(block) = alloc_run(self.heap, size) else { return };
        let run = Run { start: block.start.as_ptr(), pools: size.pools, seed: self.next_seed() };
        assert!(run.start.addr().is_multiple_of(size.align_pools * POOL_BYTES), "a run is not aligned");
        // SAFETY: the first word of each pool of a run that is ours.
        let is_zero = run.words().all(|word| unsafe { word.read() } == 0);
        assert!(is_zero || !block.zeroed, "a run that is said to be zero is not");
        run.fill();
        self.note_extent(run.start.addr(), run.pools * POOL_BYTES);
        self.runs.borrow_mut().push(run);
    }

    fn resize_run(&self, mut run: Run, pools: usize) {
        run.verify();
        self.forget_extent(run.start.addr(), run.pools * POOL_BYTES);
        if self.heap.resize_run(run.start.addr(), run.pools, pools).expect("a live run") {
            run.pools = run.pools.min(pools);
            run.verify();
            run.pools = pools;
            run.fill();
        }
        self.note_extent(run.start.addr(), run.pools * POOL_BYTES);
        self.runs.borrow_mut().push(run);
    }

    fn free_run(&self, run: &Run) {
        run.verify();
        self.forget_extent(run.start.addr(), run.pools * POOL_BYTES);
        self.heap.free_run(run.start.addr(), run.pools).expect("a live run");
    }

    /// Takes up to `blocks` live blocks, from a place on; they are this thread's then. Neighbours in the list were
    /// allocated one after the other, as far as earlier operations have left them so.
    fn take(&self, place: usize, blocks: usize) -> Vec<Live> {
        let mut live = self.live.borrow_mut();
        let first = place % live.len().max(1);
        let end = live.len().min(first + blocks);
        let mut taken = Vec::with_capacity(end - first);
        for index in (first..end).rev() {
            taken.push(live.swap_remove(index));
        }
        taken
    }

    fn free(&self, thread: usize, block: Live) {
        block.verify();
        self.forget_extent(block.start.addr(), block.class.block_bytes());
        match self.cache(thread) {
            // SAFETY: the block is ours, and given up.
            Some(cache) => of_its_kind!(block.class, class => unsafe { cache.free(class, block.start) }),
            // A thread without a cache frees like this.
            None => self.heap.spare.enter(self.heap, |inside| {
                of_its_kind!(block.class, class => inside.give(class, &[Slot::new(block.start)]));
            }),
        }
    }

    fn run(&self, thread: usize, op: Op) {
        // The last numbers stand for medium classes: for both sizes of pools, those at the ends and one between.
        let medium = [0, 9, 23, 24, 35, 47];
        let class_of = |class: usize| match class.checked_sub(CLASS_COUNT - medium.len()) {
            None => AnyClass::from_index(class),
            Some(number) => AnyClass::from_index(CLASS_COUNT + medium[number]),
        };
        match op {
            Op::Alloc { class, blocks } => (0..blocks).for_each(|_| self.alloc(thread, class_of(class), false)),
            Op::AllocZeroed { class, blocks } => (0..blocks).for_each(|_| self.alloc(thread, class_of(class), true)),
            Op::Free { place, blocks } => {
                self.take(place, blocks).into_iter().for_each(|block| self.free(thread, block));
            }
            Op::Move { place, class } => {
                for block in self.take(place, 1) {
                    self.alloc(thread, class_of(class), false);
                    self.free(thread, block);
                }
            }
            Op::Run { act, place, pools, align_pools } => {
                self.run_on_run(act, place, RunSize { pools, align_pools });
            }
            Op::Flush => {
                if let Some(cache) = self.cache(thread) {
                    cache.shrink();
                }
            }
            Op::End => {
                if let Some(cache) = self.caches[thread].take() {
                    cache.release();
                }
            }
            Op::Purge => {
                purge_heap(self.heap);
            }
            Op::Tick => {
                if let Some(mut ticker) = self.ticker.take() {
                    ticker.tick(|| true);
                    self.ticker.set(Some(ticker));
                }
            }
            Op::Refuse { purge, unmap } => os::set_refusals(purge, unmap),
            Op::Maps { left } => os::set_maps_left(left),
            Op::Limit { arenas } => {
                self.heap.set_arena_limits(ArenaLimits::of_hard(arenas));
            }
            Op::Poison { on } => {
                if !self.poisoning.replace(true) {
                    ThreadCache::poison_all(self.heap, on);
                    self.poisoning.set(false);
                }
            }
            Op::Check => {
                self.check();
            }
        }
    }

    fn check(&self) -> Stats {
        check(&mut self.heap.stop()).unwrap_or_else(|corruption| panic!("self-check: {corruption}"))
    }

    /// Checks that the heap is sound, and holds exactly the blocks that the model knows. All threads must rest.
    fn check_exactly(&self) {
        let stats = self.check();
        let mut live = [0; CLASS_COUNT + MEDIUM_CLASS_COUNT];
        for block in self.live.borrow().iter() {
            block.verify();
            live[block.class.index()] += 1;
        }
        for (class, live) in stats.classes.iter().chain(&stats.medium).zip(live) {
            assert_eq!(class.blocks_live, live, "live blocks of {} bytes", class.block_bytes);
        }
        let runs = self.runs.borrow();
        runs.iter().for_each(Run::verify);
        assert_eq!(stats.runs_live, runs.len(), "live runs");
    }

    /// Frees everything, and checks that nothing is left.
    fn finish(&self) {
        self.check_exactly();
        os::set_maps_left(usize::MAX);
        os::set_refusals(false, false);
        let mut thread = 0;
        for block in self.live.take() {
            self.free(thread % THREADS, block);
            thread += 1;
        }
        self.runs.take().iter().for_each(|run| self.free_run(run));
        for cache in self.caches.iter().filter_map(Cell::take) {
            cache.release();
        }
        self.check_exactly();
        purge_heap(self.heap);
        let stats = self.check();
        assert_eq!((stats.arenas_mapped, stats.blocks_live()), (0, 0), "something is left");
    }
}

/// Runs a program on a heap of its own.
///
/// # Panics
/// If anything is wrong.
pub fn run(program: &Program) -> Trace {
    let heap: *mut Heap = Box::into_raw(Box::new(Heap::new()));
    // SAFETY: freed below, when it is not used any more.
    let heap_ref: &'static Heap = unsafe { &*heap };
    let world = Rc::new(World {
        heap: heap_ref,
        live: RefCell::default(),
        runs: RefCell::default(),
        extents: RefCell::default(),
        caches: Default::default(),
        serial: Cell::new(0),
        poisoning: Cell::new(false),
        ticker: Cell::new(Some(Ticker::new(heap_ref, 0))),
    });
    let bodies = program.threads.iter().enumerate().map(|(thread, ops)| {
        let (world, ops) = (world.clone(), ops.clone());
        Box::new(move || ops.into_iter().for_each(|op| world.run(thread, op))) as Box<dyn FnOnce()>
    });
    let trace = scheduler::run(bodies.collect(), &program.switches);
    world.finish();
    drop(world);
    os::reset();
    // SAFETY: made above; the world is gone, and with it all references to the heap.
    drop(unsafe { Box::from_raw(heap) });
    trace
}
