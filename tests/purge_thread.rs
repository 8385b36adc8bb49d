//! The purge thread: while a program's own threads sleep, its memory goes back.
#![cfg(not(pymalloc_bypass))]

mod common;
#[path = "../src/base/config.rs"]
#[allow(dead_code, unreachable_pub, reason = "the crate's own file, of which the tests need some constants")]
mod config;

use std::io::ErrorKind;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

#[cfg(unix)]
use common::or_exit;
use common::{Block, Rng, alone, assert_sound, memory_bytes};
use config::{MAGAZINE_SLOTS_MAX, PURGE_UNIT_BYTES};
use pymalloc::Pymalloc;
use pymalloc::purge::{PurgeConfig, PurgeThread};

#[global_allocator]
static GLOBAL: Pymalloc = Pymalloc::new();

const BYTES_EACH: usize = 48 << 20;
const DEADLINE: Duration = Duration::from_secs(120);

type Small = [u64; 8];
type Small2 = [u64; 12];

const fn often() -> PurgeConfig {
    PurgeConfig::new().interval(Duration::from_millis(5)).keep_bytes(0)
}

/// Waits for `done`, without a call of the allocator.
fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < DEADLINE, "{what}: not within {DEADLINE:?}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// A thread that does `work`, says so, and sleeps without a further call until its sender goes.
fn sleeper<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> (Receiver<R>, Sender<()>, JoinHandle<()>) {
    let (say, said) = channel();
    let (wake, sleep) = channel::<()>();
    let thread = thread::spawn(move || {
        say.send(work()).expect("the test waits");
        sleep.recv().expect_err("nothing is ever sent");
    });
    (said, wake, thread)
}

fn boxes<T: Copy>(value: T, rng: &mut Rng) -> Vec<Box<T>> {
    let mut boxes: Vec<_> = (0..BYTES_EACH / size_of::<T>()).map(|_| Box::new(value)).collect();
    rng.shuffle(&mut boxes);
    boxes
}

#[test]
fn what_sleeping_threads_left_of_a_peak_goes_back_without_a_further_call() {
    alone("what_sleeping_threads_left_of_a_peak_goes_back_without_a_further_call", || {
        let _purging = PurgeThread::start(often()).expect("a thread");
        // The threads' own stacks, and what std keeps.
        let floor_bytes = memory_bytes();
        // One that frees what it allocated, and one pair that hands everything on.
        let (own, wake_own, thread_own) = sleeper(|| {
            let boxes = boxes::<Small>([1; 8], &mut Rng::new(1));
            let bytes = memory_bytes();
            drop(boxes);
            bytes
        });
        let own_peak_bytes = own.recv().expect("it says so");
        let (made, wake_maker, thread_maker) = sleeper(|| boxes::<Small2>([2; 12], &mut Rng::new(2)));
        let given = made.recv().expect("it sends them");
        let peak_bytes = memory_bytes();
        let (freed, wake_freer, thread_freer) = sleeper(move || drop(given));
        freed.recv().expect("it says so");
        assert!(own_peak_bytes - floor_bytes >= BYTES_EACH && peak_bytes - floor_bytes >= BYTES_EACH);

        // Each of three threads may hold a magazine of one class. A block of it keeps the OS pages that it reaches
        // into, and each arena left some OS pages of metadata; the rest is stacks and the vectors, which are the
        // system's.
        let in_magazines_bytes = 3 * MAGAZINE_SLOTS_MAX * 2 * PURGE_UNIT_BYTES;
        let bound_bytes = floor_bytes + in_magazines_bytes + (4 << 20);
        assert!(bound_bytes < peak_bytes / 2, "the bound says something");
        let mut left_bytes = 0;
        wait_until("the memory went back", || {
            left_bytes = memory_bytes();
            left_bytes <= bound_bytes
        });
        assert_sound();

        for (wake, thread) in [(wake_own, thread_own), (wake_maker, thread_maker), (wake_freer, thread_freer)] {
            assert!(!thread.is_finished(), "it slept all the time");
            drop(wake);
            thread.join().expect("it wakes up");
        }
        assert_sound();
    });
}

#[test]
fn there_is_one_at_a_time_and_it_can_start_and_stop_many_times() {
    alone("there_is_one_at_a_time_and_it_can_start_and_stop_many_times", || {
        let mut threads = 0;
        for round in 0..200 {
            let long = PurgeConfig::new().interval(Duration::MAX);
            let purging = PurgeThread::start(if round % 2 == 0 { long } else { often() }).expect("a thread");
            assert_eq!(PurgeThread::start(often()).expect_err("there is one").kind(), ErrorKind::AlreadyExists);
            drop(Block::random(round, &mut Rng::new(round)));
            if round % 3 == 0 {
                purging.stop()
            } else {
                drop(purging)
            }
            let stats = assert_sound();
            threads = stats.caches_live;
        }
        assert!(threads <= 2, "{threads} caches are in use");
    });
}

#[test]
fn an_interval_of_zero_is_refused() {
    let zero = PurgeConfig::new().interval(Duration::ZERO);
    assert_eq!(PurgeThread::start(zero).expect_err("zero").kind(), ErrorKind::InvalidInput);
}

#[test]
fn busy_threads_and_a_busy_purge_thread_leave_a_sound_heap() {
    alone("busy_threads_and_a_busy_purge_thread_leave_a_sound_heap", || {
        let _purging = PurgeThread::start(PurgeConfig::new().interval(Duration::from_nanos(1)).keep_bytes(1 << 20));
        let (give, take) = channel::<Vec<Block>>();
        let freer = thread::spawn(move || take.into_iter().for_each(drop));
        let workers: Vec<_> = (0..3)
            .map(|seed| {
                let give = give.clone();
                thread::spawn(move || {
                    let mut rng = Rng::new(seed);
                    for round in 0..60 {
                        let mut blocks: Vec<_> = (0..3000).map(|n| Block::random(n, &mut rng)).collect();
                        rng.shuffle(&mut blocks);
                        let theirs = blocks.split_off(1500);
                        give.send(theirs).expect("it takes all");
                        if round % 20 == 0 {
                            // Long enough to be found idle, as a rule.
                            thread::sleep(Duration::from_millis(1));
                        }
                    }
                })
            })
            .collect();
        drop(give);
        for thread in workers.into_iter().chain([freer]) {
            thread.join().expect("its checks passed");
        }
        assert_sound();
    });
}

#[cfg(unix)]
#[test]
fn a_forked_child_has_none_and_may_start_its_own() {
    alone("a_forked_child_has_none_and_may_start_its_own", || {
        let purging = PurgeThread::start(often()).expect("a thread");
        let other = PurgeThread::start(often()).expect_err("there is one");
        assert_eq!(other.kind(), ErrorKind::AlreadyExists);
        for _ in 0..20 {
            // SAFETY: the child allocates, which this allocator allows, and ends by `_exit`.
            let child = unsafe { libc::fork() };
            if child == 0 {
                // SAFETY: `_exit` has no preconditions.
                unsafe { libc::_exit(or_exit(|| in_child(purging))) };
            }
            let mut status = 0;
            // SAFETY: our own child; `status` is writable.
            assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
            assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "status {status}");
        }
        // The parent's is there still.
        assert!(PurgeThread::start(often()).is_err());
        purging.stop();
        PurgeThread::start(often()).expect("the place is free").stop();
    });
}

/// What the child does with its parent's guard; its exit code.
#[cfg(unix)]
fn in_child(of_parent: PurgeThread) -> libc::c_int {
    // SAFETY: `alarm` has no preconditions; a child that hangs dies of it.
    unsafe { libc::alarm(60) };
    // It can't be joined here: does nothing.
    drop(of_parent);
    let Ok(purging) = PurgeThread::start(often()) else { return 1 };
    let before = memory_bytes();
    drop(boxes::<Small>([3; 8], &mut Rng::new(3)));
    pymalloc::flush_thread_cache();
    wait_until("the memory went back", || memory_bytes() < before + (8 << 20));
    purging.stop();
    libc::c_int::from(pymalloc::self_check().is_err())
}

#[test]
fn a_detached_one_runs_on() {
    alone("a_detached_one_runs_on", || {
        PurgeThread::start(often()).expect("a thread").detach();
        assert_eq!(PurgeThread::start(often()).expect_err("there is one").kind(), ErrorKind::AlreadyExists);
        drop(boxes::<Small>([3; 8], &mut Rng::new(3)));
        pymalloc::flush_thread_cache();
        wait_until("no arena with free pools only", || assert_sound().arenas_mapped <= 2);
    });
}
