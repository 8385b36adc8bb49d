//! Threads that worked once, and then sleep.

use crate::blocks::Blocks;
use crate::random::Random;
use crate::{figure, mark, returning, rss};
use peers::params::SEED;
use peers::patterns::RETURNED;
use std::sync::{Arc, Barrier, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

const STACK_BYTES: usize = 64 << 10;

/// Runs `work` in each of `threads` threads and lets them sleep. Returns what wakes them, and their handles.
fn sleepers(
    threads: usize,
    work: impl Fn(usize) -> Blocks + Send + Sync + 'static,
) -> (Arc<Barrier>, Vec<JoinHandle<()>>) {
    let (did, end) = (Arc::new(Barrier::new(threads + 1)), Arc::new(Barrier::new(threads + 1)));
    let work = Arc::new(work);
    let start = |number| {
        let (work, did, end) = (Arc::clone(&work), Arc::clone(&did), Arc::clone(&end));
        let body = move || {
            let blocks = work(number);
            did.wait();
            end.wait();
            drop(blocks);
        };
        thread::Builder::new().stack_size(STACK_BYTES).spawn(body).expect("a thread")
    };
    let handles = (0..threads).map(start).collect();
    did.wait();
    (end, handles)
}

fn wake((end, handles): (Arc<Barrier>, Vec<JoinHandle<()>>)) {
    end.wait();
    handles.into_iter().for_each(|handle| handle.join().expect("no thread panics"));
}

/// Blocks of classes that are `step` apart, one of each, again and again.
fn each_class(step: usize) -> Blocks {
    let mut class = 0;
    Blocks::new(64 / step, || {
        class += step;
        class * 8
    })
}

pub fn one_block_a_class() {
    const THREADS: usize = 1_000;
    let before = rss::bytes();
    mark("threads");
    let threads = sleepers(THREADS, |_| each_class(1));
    figure("MiB idle", rss::mib());
    figure("KiB a thread", (rss::bytes() - before) as f64 / 1024.0 / THREADS as f64);
    mark("request to return");
    returning::request();
    figure(RETURNED, rss::mib());
    wake(threads);
}

pub fn beside_a_big_heap() {
    const THREADS: usize = 200;
    mark("600 MiB");
    let mut random = Random::new(SEED);
    let heap = Blocks::new((600 << 20) / 89, || random.pick(&peers::params::MIXED_BYTES));
    let before = rss::bytes();
    mark("threads");
    let threads = sleepers(THREADS, |_| each_class(2));
    figure("KiB a thread", (rss::bytes() - before) as f64 / 1024.0 / THREADS as f64);
    wake(threads);
    drop(heap);
}

/// Each thread of a pool in turn has a burst of work, three threads at a time; then all sleep.
pub fn pool_of_bursts(threads: usize, bytes_max: usize) {
    const AT_ONCE: usize = 3;
    const BURST_BYTES: usize = 16 << 20;
    let running = Arc::new((Mutex::new(0), Condvar::new()));
    mark("bursts");
    let pool = sleepers(threads, move |number| {
        let (count, freed) = &*running;
        let mut random = Random::new(SEED + number as u64);
        let mut burst = || {
            let now = count.lock().expect("no panic");
            *freed.wait_while(now, |now| *now == AT_ONCE).expect("no panic") += 1;
            let mut sizes = random.clone();
            let mean = usize::midpoint(bytes_max, 16);
            let mut blocks = Blocks::new(BURST_BYTES / mean, || 16 + sizes.below(bytes_max - 16));
            blocks.shuffle(&mut random);
            blocks.free(0, 1);
            *count.lock().expect("no panic") -= 1;
            freed.notify_one();
            blocks
        };
        (0..3).for_each(|_| drop(burst()));
        burst()
    });
    mark("idle");
    thread::sleep(Duration::from_millis(1_500));
    figure("MiB idle", rss::mib());
    mark("request to return");
    returning::request();
    figure(RETURNED, rss::mib());
    wake(pool);
}
