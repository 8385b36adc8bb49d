//! Real threads on one heap: they hand blocks to each other, and some end in the middle.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::test_heap::{Live, TestHeap, alloc, alloc_zeroed};
use crate::base::config::CLASS_COUNT;
use crate::base::size_class::SizeClass;
use crate::cache::ThreadCache;
use crate::os::thread_token;

/// Operations in a thread's life, lives of a thread, and rounds of four threads. Few under Miri, which checks each
/// access and is run with many seeds.
const OPERATIONS: usize = if cfg!(miri) { 40 } else { 4000 };
const LIVES: u64 = if cfg!(miri) { 2 } else { 10 };
const ROUNDS: u64 = if cfg!(miri) { 1 } else { 8 };
/// Number of threads whose caches are never released.
const STARTS: u64 = if cfg!(miri) { 4 } else { 300 };

/// A small random generator with a seed, so that a run repeats as far as threads allow.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        // SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// One thread's life: a few thousand operations. It gives some of its blocks to other threads and frees some of theirs.
fn live_a_life(test: &TestHeap, shared: &Mutex<Vec<Live>>, seed: u64) {
    let mut random = Random(seed);
    let cache = test.attach();
    let mut own = Vec::new();
    // A few favourite classes, so that threads meet in the same pools.
    let classes: Vec<_> =
        (0..4).map(|_| SizeClass::from_number(random.below(CLASS_COUNT)).expect("in range")).collect();
    for _ in 0..OPERATIONS {
        match random.below(16) {
            0..=6 => {
                let class = classes[random.below(classes.len())];
                let allocate = if random.below(8) == 0 { alloc_zeroed } else { alloc };
                own.extend(allocate(cache, class, random.next()));
            }
            7..=11 if !own.is_empty() => own.swap_remove(random.below(own.len())).free(cache),
            12..=13 if !own.is_empty() => {
                let half = own.split_off(own.len() / 2);
                shared.lock().expect("no panic").extend(half);
            }
            14 => {
                let mut others = shared.lock().expect("no panic");
                let keep = others.len() / 2;
                let taken = others.split_off(keep);
                drop(others);
                taken.into_iter().for_each(|block| block.free(cache));
            }
            _ => {
                if random.below(200) == 0 {
                    cache.shrink();
                }
            }
        }
    }
    shared.lock().expect("no panic").extend(own);
    cache.release();
}

#[test]
fn threads_that_start_end_and_hand_blocks_on_leave_a_sound_heap() {
    for round in 0..ROUNDS {
        let test = TestHeap::new();
        let shared = Mutex::new(Vec::new());
        let done = AtomicBool::new(false);
        let lives = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4)
                .map(|worker| {
                    let (test, shared, lives) = (&test, &shared, &lives);
                    scope.spawn(move || {
                        for life in 0..LIVES {
                            live_a_life(test, shared, round << 16 | worker << 8 | life);
                            lives.fetch_add(1, Ordering::Relaxed);
                        }
                    })
                })
                .collect();
            // Meanwhile another thread checks, purges and poisons the heap.
            let (test, done) = (&test, &done);
            scope.spawn(move || {
                let mut looks = 0_u32;
                while !done.load(Ordering::Relaxed) {
                    test.check();
                    test.purge();
                    ThreadCache::poison_all(test.heap, looks.is_multiple_of(3));
                    looks += 1;
                    std::thread::yield_now();
                }
                ThreadCache::poison_all(test.heap, false);
            });
            workers.into_iter().for_each(|worker| worker.join().expect("no panic"));
            done.store(true, Ordering::Relaxed);
        });
        assert_eq!(lives.load(Ordering::Relaxed), 4 * LIVES as usize);
        let shared = shared.into_inner().expect("no panic");
        assert_eq!(test.check().blocks_live(), shared.len());
        let cache = test.attach();
        shared.into_iter().for_each(|block| block.free(cache));
        cache.release();
        test.purge();
        assert_eq!(test.check().arenas_mapped, 0);
    }
}

#[test]
fn new_threads_may_come_while_the_slow_paths_stop_and_go_on() {
    let test = TestHeap::new();
    let starting = AtomicUsize::new(3);
    std::thread::scope(|scope| {
        for worker in 0..3 {
            let (test, starting) = (&test, &starting);
            scope.spawn(move || {
                // These caches are never released, so each one is a new set in the register.
                for life in 0..STARTS {
                    let cache = test.attach();
                    let class = SizeClass::from_number(worker * 7 % CLASS_COUNT).expect("in range");
                    let live: Vec<_> = (0..40).filter_map(|seed| alloc(cache, class, seed << 16 | life)).collect();
                    live.into_iter().for_each(|block| block.free(cache));
                }
                starting.fetch_sub(1, Ordering::Relaxed);
            });
        }
        let (test, starting) = (&test, &starting);
        scope.spawn(move || {
            while starting.load(Ordering::Relaxed) > 0 {
                test.check();
            }
        });
    });
    let stats = test.check();
    assert_eq!((stats.caches_live, stats.blocks_live()), (3 * STARTS as usize, 0));
}

#[test]
fn threads_that_run_at_once_have_different_tokens() {
    // A forking thread is known by its token and passes the locks that it holds; no other thread may.
    let barrier = std::sync::Barrier::new(4);
    let one = || {
        let token = thread_token();
        barrier.wait();
        assert_eq!(thread_token(), token);
        token
    };
    let others: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(one)).collect();
        threads.into_iter().map(|thread| thread.join().expect("its check passed")).collect()
    });
    let all: std::collections::BTreeSet<_> = others.into_iter().chain([thread_token()]).collect();
    assert_eq!(all.len(), 5);
    assert!(!all.contains(&0), "0 says that nobody forks");
}
