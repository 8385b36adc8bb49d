//! A thread of the soak test: its live set grows, peaks, drops to a scattered hundredth and goes away.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::thread;
use std::time::Duration;

use super::common::{Block, Rng};
use super::faults;

const PEAK_BLOCKS_PER_THREAD: usize = 100_000;

/// A gate at which threads wait until all have come and the main thread, which has looked at the heap at rest, opens
/// it. (With a `Barrier`, the main thread could not print meanwhile.)
#[derive(Default)]
pub(crate) struct Gate {
    arrived: AtomicUsize,
    opened: AtomicUsize,
}

impl Gate {
    fn pass(&self) {
        let opened = self.opened.load(Ordering::Acquire);
        // AcqRel and Acquire here, Release in `open`: all threads behind the gate see what each thread did before it.
        self.arrived.fetch_add(1, Ordering::AcqRel);
        while self.opened.load(Ordering::Acquire) == opened {
            thread::sleep(Duration::from_millis(1));
        }
    }

    pub(crate) fn wait_for(&self, threads: usize, mut meanwhile: impl FnMut()) {
        while self.arrived.load(Ordering::Acquire) < threads {
            meanwhile();
            thread::sleep(Duration::from_millis(2));
        }
    }

    pub(crate) fn open(&self) {
        self.arrived.store(0, Ordering::Relaxed);
        self.opened.fetch_add(1, Ordering::Release);
    }
}

/// The data that the threads of a cycle and the main thread share.
#[derive(Default)]
pub(crate) struct Shared {
    pub(crate) gate: Gate,
    /// Number of small blocks that the threads hold; exact when all threads are at the gate.
    pub(crate) live: AtomicUsize,
    pub(crate) allocated: AtomicU64,
    /// Requests that got null.
    pub(crate) nulls: AtomicU64,
    /// Number of threads that these threads started.
    pub(crate) visitors: AtomicU64,
}

pub(crate) struct Worker<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) rng: Rng,
    pub(crate) mine: Vec<Block>,
    pub(crate) inbox: Receiver<Vec<Block>>,
    pub(crate) neighbour: Sender<Vec<Block>>,
    pub(crate) serial: u64,
}

/// A new block; `None` if the OS or the limit refuses one.
fn request(serial: u64, rng: &mut Rng) -> Option<Block> {
    let (layout, how, bytes) = (rng.layout(), rng.below(16), 1 + rng.below(600));
    faults::amid(|| match how {
        0 => Block::try_zeroed(serial, layout),
        1 => {
            let mut block = Block::try_new(serial, layout)?;
            // If this is refused, the block keeps its size.
            block.try_resize(bytes);
            Some(block)
        }
        _ => Block::try_new(serial, layout),
    })
}

impl Worker<'_> {
    fn allocate(&mut self) {
        self.serial += 1;
        match request(self.serial, &mut self.rng) {
            Some(block) => self.mine.push(block),
            None => {
                self.shared.nulls.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn free_any(&mut self) {
        if self.mine.is_empty() {
            return;
        }
        let any = self.rng.below(self.mine.len());
        let block = self.mine.swap_remove(any);
        faults::amid(|| drop(block));
    }

    /// Gives the last `blocks` to the neighbour.
    fn give(&mut self, blocks: usize) {
        let given = self.mine.split_off(self.mine.len().saturating_sub(blocks));
        self.neighbour.send(given).expect("it ends when we do");
    }

    /// Takes the blocks that others gave. (A receive that blocks would allocate memory that stays until the thread
    /// ends.)
    fn taken(&self) -> Vec<Block> {
        self.inbox.try_iter().flatten().collect()
    }

    /// Runs a short-lived thread, and takes its blocks, which were thus allocated by a thread that is gone.
    fn visitor(&mut self) {
        let seed = self.rng.next();
        let visit = move || {
            faults::seed(seed);
            let mut rng = Rng::new(seed);
            let mut left: Vec<Block> = (0..2000).filter_map(|serial| request(seed ^ serial, &mut rng)).collect();
            rng.shuffle(&mut left);
            let freed = left.split_off(left.len() / 2);
            faults::amid(|| drop(freed));
            left
        };
        let left = thread::spawn(visit).join().expect("a panic has ended the process");
        self.mine.extend(left);
        self.shared.visitors.fetch_add(1, Ordering::Relaxed);
    }

    fn grow(&mut self) {
        while self.mine.len() < PEAK_BLOCKS_PER_THREAD {
            for _ in 0..1000 {
                self.allocate();
                if self.rng.below(4) == 0 {
                    self.free_any();
                }
            }
            if self.rng.below(32) == 0 {
                self.visitor();
            }
            self.rng.shuffle(&mut self.mine);
            self.give(100);
            let taken = self.taken();
            self.mine.extend(taken);
        }
    }

    fn replace(&mut self, blocks: usize) {
        for _ in 0..blocks {
            self.free_any();
            self.allocate();
        }
    }

    /// Keeps a scattered hundredth; half of the others are freed by the neighbour.
    fn drop_most(&mut self) {
        self.rng.shuffle(&mut self.mine);
        let kept = self.mine.len() / 100;
        self.give((self.mine.len() - kept) / 2);
        let dropped = self.mine.split_off(kept);
        faults::amid(|| drop(dropped));
    }

    /// Waits for all threads at two gates. Behind the first, no thread gives blocks any more, so each can take all that
    /// it was given. At the second, the main thread looks at the heap at rest.
    fn rest(&mut self, keep: bool) {
        self.shared.gate.pass();
        let taken = self.taken();
        if keep {
            self.mine.extend(taken);
        } else {
            faults::amid(|| drop(taken));
        }
        let small = self.mine.iter().filter(|block| block.is_small()).count();
        self.shared.live.fetch_add(small, Ordering::Relaxed);
        self.shared.gate.pass();
    }

    /// The threads rest `RESTS` times.
    pub(crate) fn cycle(&mut self) {
        let first = self.serial;
        faults::seed(self.rng.next());
        self.grow();
        self.rest(true);
        // The main thread may have set a limit, so nothing except the blocks is allocated here.
        self.replace(PEAK_BLOCKS_PER_THREAD / 2);
        self.rest(true);
        self.drop_most();
        self.rest(false);
        // The free space between the survivors is used again.
        for _ in 0..PEAK_BLOCKS_PER_THREAD / 4 {
            self.allocate();
        }
        self.rng.shuffle(&mut self.mine);
        let all = std::mem::take(&mut self.mine);
        faults::amid(|| drop(all));
        faults::amid(pymalloc::flush_thread_cache);
        self.rest(false);
        self.shared.allocated.fetch_add(self.serial - first, Ordering::Relaxed);
    }
}
