//! Large blocks beside small ones.

use crate::blocks::Blocks;
use crate::random::Random;
use crate::{figure, mark, returning, rss};
use peers::params::SEED;
use std::sync::Barrier;
use std::sync::mpsc::channel;
use std::thread;

/// Small blocks stay. Workers, one after the other, allocate and free large blocks, and then sleep.
pub fn kept(workers: usize) {
    let index = Blocks::new((16 << 20) / 64, || 64);
    let before = rss::bytes() as f64;
    let more = || (rss::bytes() as f64 - before) / 1024.0;
    mark("bursts");
    let burst = |_| {
        let (sender, receiver) = channel();
        let worker = thread::spawn(move || {
            drop(Blocks::new(1_500, || 20_000));
            sender.send(()).expect("somebody waits");
            thread::park();
        });
        receiver.recv().expect("the worker comes to its end");
        worker
    };
    let workers: Vec<_> = (0..workers).map(burst).collect();
    mark("idle");
    thread::sleep(std::time::Duration::from_millis(200));
    figure("KiB more than before the burst", more());
    mark("request to return");
    returning::request();
    figure("KiB more after a request to return", more());
    for worker in workers {
        worker.thread().unpark();
        worker.join().expect("no thread panics");
    }
    drop(index);
}

/// Phases of small and of large blocks in turn, of the same number of bytes.
pub fn small_and_large() {
    const THREADS: usize = 8;
    const SHARE: usize = (96 << 20) / THREADS;
    let all = Barrier::new(THREADS);
    let work = |number: usize| {
        let mut random = Random::new(SEED + number as u64);
        for _ in 0..6 {
            for (name, least, most) in [("small", 16, 512), ("large", 20_000, 80_000)] {
                if number == 0 {
                    mark(name);
                }
                let mut sizes = random.clone();
                let mut blocks =
                    Blocks::new(SHARE * 2 / (least + most), || least + sizes.below(most - least));
                blocks.shuffle(&mut random);
                all.wait();
                drop(blocks);
                all.wait();
            }
        }
    };
    thread::scope(|scope| {
        for number in 0..THREADS {
            let work = &work;
            scope.spawn(move || work(number));
        }
    });
    figure("MiB at the peak", rss::field_kib("status", "VmHWM:") as f64 / 1024.0);
}
