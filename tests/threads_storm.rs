//! Threads start and end all the time and hand blocks to each other.
#![cfg(not(pymalloc_bypass))]

mod common;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;

use common::{Block, Rng, assert_live_near, assert_sound};
use pymalloc::{Pymalloc, flush_thread_cache, purge};

#[global_allocator]
static GLOBAL: Pymalloc = Pymalloc::new();

const SEED: u64 = 0x0057_04B1;
const THREADS: u64 = 1500;
const THREADS_AT_ONCE: usize = 8;
const STEPS: u64 = 300;
const SLACK_BLOCKS: usize = 64;

/// The place where threads hand blocks to each other, even if they never run at the same time.
struct Exchange {
    receiver: Mutex<Receiver<Block>>,
    /// Sums of the serial numbers handed in and taken out. They are equal if no block is lost or doubled.
    sent: AtomicU64,
    received: AtomicU64,
}

impl Exchange {
    // All counts here are read after the threads were joined, so Relaxed is enough.
    fn send(&self, sender: &Sender<Block>, block: Block) {
        self.sent.fetch_add(block.serial(), Ordering::Relaxed);
        sender.send(block).expect("the receiver outlives the threads");
    }

    fn receive(&self) -> Option<Block> {
        let block = self.receiver.lock().expect("no thread panicked").try_recv().ok()?;
        self.received.fetch_add(block.serial(), Ordering::Relaxed);
        block.check();
        Some(block)
    }
}

fn live_and_end(number: u64, exchange: &Exchange, sender: &Sender<Block>) {
    let mut rng = Rng::new(SEED ^ number);
    let mut mine = Vec::new();
    for step in 0..STEPS {
        match rng.below(5) {
            0 | 1 => mine.push(Block::random(number * STEPS + step, &mut rng)),
            2 if !mine.is_empty() => drop(mine.swap_remove(rng.below(mine.len()))),
            3 if !mine.is_empty() => {
                exchange.send(sender, mine.swap_remove(rng.below(mine.len())));
            }
            _ => mine.extend(exchange.receive()),
        }
    }
    // Some threads empty their caches before they end, most do not.
    match number % 64 {
        0 => drop(purge()),
        1..8 => flush_thread_cache(),
        _ => {}
    }
    let handed_over = mine.len() / 2;
    for block in mine.drain(..handed_over) {
        exchange.send(sender, block);
    }
}

#[test]
fn blocks_survive_a_storm_of_threads() {
    let before = assert_sound().blocks_live();
    let (sender, receiver) = channel();
    let exchange =
        Arc::new(Exchange { receiver: Mutex::new(receiver), sent: AtomicU64::new(0), received: AtomicU64::new(0) });

    let mut running = VecDeque::new();
    for number in 0..THREADS {
        if running.len() == THREADS_AT_ONCE {
            let oldest: thread::JoinHandle<()> = running.pop_front().expect("not empty");
            oldest.join().expect("its checks passed");
        }
        let (exchange, sender) = (Arc::clone(&exchange), sender.clone());
        running.push_back(thread::spawn(move || live_and_end(number, &exchange, &sender)));
        if number % 50 == 0 {
            // The self-check runs in the middle of the storm, on purpose.
            assert_sound();
        }
    }
    for thread in running {
        thread.join().expect("its checks passed");
    }
    let rest: Vec<Block> = std::iter::from_fn(|| exchange.receive()).collect();
    let small = rest.iter().filter(|block| block.is_small()).count();
    assert!(small >= 1000, "{small} blocks are left to count");
    assert_live_near(before + small, SLACK_BLOCKS);
    drop(rest);

    let sent = exchange.sent.load(Ordering::Relaxed);
    assert_ne!(sent, 0);
    assert_eq!(sent, exchange.received.load(Ordering::Relaxed));
    drop((exchange, sender));
    assert_live_near(before, SLACK_BLOCKS);
}
