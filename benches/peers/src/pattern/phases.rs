//! Threads whose work changes: class after class, by owners and by other freeing threads, and near a limit.

use crate::blocks::Blocks;
use crate::random::Random;
use crate::{figure, mark, returning, rss};
use peers::params::{MEDIUM_BYTES, MEGABYTE_BYTES, SEED};
use peers::patterns::RETURNED;
use std::sync::mpsc::channel;
use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::Duration;

const PHASE_BYTES: usize = 100 << 20;

/// Each class in turn: all threads allocate, and then they or their neighbours free.
pub fn classes_in_turn(threads: usize, cross: bool) {
    sizes_in_turn(threads, cross, &(8..=512).step_by(8).collect::<Vec<_>>());
}

/// The same with sizes of 520 bytes to 1 MiB.
pub fn medium_in_turn(threads: usize, cross: bool) {
    let runs =
        MEGABYTE_BYTES.into_iter().filter(|bytes| MEDIUM_BYTES.iter().all(|medium| medium < bytes));
    sizes_in_turn(threads, cross, &MEDIUM_BYTES.into_iter().chain(runs).collect::<Vec<_>>());
}

fn sizes_in_turn(threads: usize, cross: bool, sizes: &[usize]) {
    let slots: Vec<Mutex<Option<Blocks>>> = (0..threads).map(|_| Mutex::new(None)).collect();
    let all = Barrier::new(threads);
    let worst = Mutex::new(0.0_f64);
    mark("classes in turn");
    let work = |number: usize| {
        let mut random = Random::new(SEED + number as u64);
        for &bytes in sizes {
            let mut blocks = Blocks::new(PHASE_BYTES / bytes / threads, || bytes);
            blocks.shuffle(&mut random);
            *slots[number].lock().expect("no thread panics") = Some(blocks);
            all.wait();
            let whose = if cross { (number + 1) % threads } else { number };
            drop(slots[whose].lock().expect("no thread panics").take());
            all.wait();
            if number == 0 {
                let mut worst = worst.lock().expect("no thread panics");
                *worst = worst.max(rss::mib());
            }
            all.wait();
        }
        if number == 0 {
            mark("request to return");
            returning::request();
            figure(RETURNED, rss::mib());
        }
        all.wait();
    };
    thread::scope(|scope| {
        for number in 0..threads {
            let work = &work;
            scope.spawn(move || work(number));
        }
    });
    figure("MiB between phases, at worst", *worst.lock().expect("no thread panics"));
}

/// One thread allocates and sleeps; other threads free all of its blocks.
pub fn sleeping_owner() {
    const BYTES: usize = 64;
    const THREADS: usize = 8;
    let mut worst = 0.0_f64;
    for round in 0..6 {
        mark("owner allocates");
        let (sender, receiver) = channel();
        thread::spawn(move || {
            let mut random = Random::new(SEED + round);
            let shares = (0..THREADS).map(|_| Blocks::new((300 << 20) / BYTES / THREADS, || BYTES));
            let mut shares: Vec<Blocks> = shares.collect();
            shares.iter_mut().for_each(|share| share.shuffle(&mut random));
            sender.send(shares).expect("somebody waits");
            loop {
                thread::park();
            }
        });
        let shares = receiver.recv().expect("the owner sends");
        mark("others free");
        let freers: Vec<_> =
            shares.into_iter().map(|share| thread::spawn(move || drop(share))).collect();
        freers.into_iter().for_each(|freer| freer.join().expect("no thread panics"));
        thread::sleep(Duration::from_millis(100));
        worst = worst.max(rss::mib());
    }
    figure("MiB left, at worst", worst);
}

/// A thread that allocates blocks of one size frees a few of another thread's blocks. The owner frees the rest, and
/// both sleep.
pub fn pinned_depots() {
    const BYTES: usize = 64;
    let (to_other, from_owner) = channel::<Blocks>();
    let (to_owner, from_other) = channel::<Blocks>();
    let other = thread::spawn(move || {
        drop(Blocks::new(1_000, || BYTES));
        let mut blocks = from_owner.recv().expect("the owner sends");
        blocks.free(0, 1_000);
        to_owner.send(blocks).expect("the owner waits");
        thread::park();
    });
    mark("allocate");
    let blocks = Blocks::new((500 << 20) / BYTES, || BYTES);
    to_other.send(blocks).expect("the other waits");
    let blocks = from_other.recv().expect("the other sends");
    mark("free");
    drop(blocks);
    mark("idle");
    thread::sleep(Duration::from_millis(1_500));
    figure("MiB idle", rss::mib());
    mark("request to return");
    returning::request();
    figure(RETURNED, rss::mib());
    other.thread().unpark();
    other.join().expect("no thread panics");
}

/// Threads whose live blocks together stay far below the limit.
pub fn limit() {
    use std::alloc::{Layout, alloc, dealloc};
    use std::sync::atomic::{AtomicUsize, Ordering};
    const THREADS: u64 = 8;
    static NULLS: AtomicUsize = AtomicUsize::new(0);
    #[cfg(feature = "alloc-pymalloc")]
    pymalloc::set_limit(Some(16 << 20));
    mark("near the limit");
    let work = |number: u64| {
        let mut random = Random::new(SEED + number);
        let mut addresses = crate::offheap::Offheap::<*mut u8>::new(1 << 18);
        for _ in 0..400 {
            let layout =
                Layout::from_size_align(random.below(64) * 8 + 8, 8).expect("a size class");
            let count = (1 << 20) / layout.size();
            for address in &mut addresses[..count] {
                // SAFETY: the size is not 0.
                *address = unsafe { alloc(layout) };
                if address.is_null() {
                    NULLS.fetch_add(1, Ordering::Relaxed);
                }
            }
            for address in addresses[..count].iter().filter(|address| !address.is_null()) {
                // SAFETY: allocated above with this layout.
                unsafe { dealloc(*address, layout) };
            }
        }
    };
    thread::scope(|scope| {
        for number in 0..THREADS {
            scope.spawn(move || work(number));
        }
    });
    figure("requests answered by null", NULLS.load(Ordering::Relaxed) as f64);
}
