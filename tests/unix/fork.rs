//! A process with busy threads forks; children and grandchildren go on allocating.
//!
//! This test runs without libtest, because the main thread should be one that forks, and a child must not return into
//! the test harness.

#[path = "../common/mod.rs"]
mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use common::{Block, Rng, StopOnDrop, assert_live_near, assert_sound};
use pymalloc::{Pymalloc, flush_thread_cache, purge};

#[global_allocator]
static GLOBAL: Pymalloc = Pymalloc::new();

const CHURNING_THREADS: u64 = 4;
/// A child hangs if it has not ended after this many looks, which are at least a millisecond apart. A clock would not
/// do, because it runs on while parent and child are stopped.
const LOOKS_MAX: u32 = 60_000;
/// Forks per forking thread, unless `PYMALLOC_FORKS` gives another number.
const FORKS: u64 = 30;
const SLACK_BLOCKS: usize = 32;

static HANDLER_RUNS: [AtomicUsize; 3] = [const { AtomicUsize::new(0) }; 3];

fn handler(which: usize) {
    let mut rng = Rng::new(which as u64);
    let blocks: Vec<Block> = (0..200).map(|serial| Block::random(serial, &mut rng)).collect();
    drop(blocks);
    HANDLER_RUNS[which].fetch_add(1, Ordering::Relaxed);
}

unsafe extern "C" fn prepare() {
    handler(0);
}

unsafe extern "C" fn in_parent() {
    handler(1);
}

unsafe extern "C" fn in_child() {
    handler(2);
}

/// Prepare handlers run in the reverse order of their registration, the other handlers in that order. So handlers that
/// were registered before the allocator's own run while the allocator holds its locks for the fork.
extern "C" fn before_main() {
    // SAFETY: the handlers are there for the whole life of the process.
    let error = unsafe { libc::pthread_atfork(Some(prepare), Some(in_parent), Some(in_child)) };
    assert_eq!(error, 0);
}

// The loader calls this before `main`, so before Rust's runtime allocates anything.
// SAFETY: the section holds pointers to functions of this type.
#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = before_main;

type Batch = Vec<Block>;

/// Allocates, frees, and exchanges blocks with the forking threads, so that a fork finds caches half full and remote
/// frees under way.
fn churn(number: u64, stop: &AtomicBool, inbox: &Mutex<Receiver<Batch>>, outbox: &SyncSender<Batch>) {
    let mut rng = Rng::new(number);
    let mut mine = Vec::new();
    let mut serial = number << 32;
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..200 {
            serial += 1;
            if mine.len() < 1000 || rng.below(2) == 0 {
                mine.push(Block::random(serial, &mut rng));
            } else {
                drop(mine.swap_remove(rng.below(mine.len())));
            }
        }
        drop(inbox.lock().expect("no thread panicked").try_recv());
        let rest = mine.len() - mine.len().min(100);
        if let Err(refused) = outbox.try_send(mine.split_off(rest)) {
            let (TrySendError::Full(batch) | TrySendError::Disconnected(batch)) = refused;
            mine.extend(batch);
        }
    }
}

/// Forks; the child runs `work` and exits, and the parent waits for it.
///
/// # Panics
/// If the child fails or hangs.
fn fork_and_wait(work: impl FnOnce()) {
    // SAFETY: the child uses the allocator (this is the test), futexes and system calls. It never returns into code
    // that knows the other threads.
    let child = unsafe { libc::fork() };
    assert_ne!(child, -1);
    if child == 0 {
        let passed = catch_unwind(AssertUnwindSafe(work)).is_ok();
        // SAFETY: always allowed; no exit handler runs.
        unsafe { libc::_exit(i32::from(!passed)) };
    }
    let (mut looks, mut status) = (0, 0);
    loop {
        // SAFETY: `status` is a place for the status of our own child.
        let ended = unsafe { libc::waitpid(child, &raw mut status, libc::WNOHANG) };
        if ended != 0 {
            assert_eq!(ended, child, "waitpid failed");
            break;
        }
        looks += 1;
        if looks > LOOKS_MAX {
            // SAFETY: the child was not waited for yet, so the number is still its own.
            unsafe { libc::kill(child, libc::SIGKILL) };
            panic!("a forked child hangs");
        }
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(status, 0, "wait status of a forked child");
}

/// The work of a child with the blocks of its parent.
fn live_on(mut inherited: Vec<Block>, generations: u64, with_thread: bool) {
    let runs = HANDLER_RUNS[2].load(Ordering::Relaxed);
    assert_ne!(runs, 0, "the child handler ran");
    let mut rng = Rng::new(generations);
    let rest = inherited.split_off(inherited.len() / 2);
    drop(inherited);
    let before = assert_sound().blocks_live();
    let mut own: Vec<Block> = (0..2000).map(|serial| Block::random(serial, &mut rng)).collect();
    let small = own.iter().filter(|block| block.is_small()).count();
    assert_live_near(before + small, SLACK_BLOCKS);
    drop(rest);
    own.truncate(1000);
    if with_thread {
        // The child adopts what threads left that do not exist in it.
        let theirs = own.split_off(500);
        thread::spawn(move || drop((theirs, Block::random(1, &mut Rng::new(1))))).join().expect("its checks passed");
    }
    flush_thread_cache();
    purge();
    assert_sound();
    if generations > 0 {
        fork_and_wait(move || live_on(own, generations - 1, with_thread));
    }
}

fn fork_often(number: u64, forks: u64, from_others: &Mutex<Receiver<Batch>>, to_others: &SyncSender<Batch>) {
    let mut rng = Rng::new(number);
    for round in 0..forks {
        let mut kept: Vec<Block> = (0..500).map(|serial| Block::random(serial, &mut rng)).collect();
        // From now on the other threads free these blocks, even while the fork is under way.
        drop(to_others.try_send(kept.split_off(300)));
        if let Ok(batch) = from_others.lock().expect("no thread panicked").recv() {
            kept.extend(batch);
        }
        rng.shuffle(&mut kept);
        // The child gets a copy of the handles and of the blocks behind them.
        let mut kept = Some(kept);
        fork_and_wait(|| live_on(kept.take().expect("not taken yet"), 1, round % 8 == 0));
        assert!(kept.is_some(), "only the child takes the blocks");
        if round % 16 == 0 {
            // When std starts a program, it uses another kind of fork.
            let status = Command::new("true").status().expect("coreutils");
            assert!(status.success());
            assert_sound();
        }
    }
}

fn forks_of_a_busy_process(forks: u64) {
    let before = assert_sound().blocks_live();
    let (to_churn, churn_inbox) = sync_channel(8);
    let (to_forkers, forker_inbox) = sync_channel(8);
    let inboxes = Arc::new((Mutex::new(churn_inbox), Mutex::new(forker_inbox)));
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        for number in 0..CHURNING_THREADS {
            let (inboxes, stop, to_forkers) = (Arc::clone(&inboxes), &stop, to_forkers.clone());
            scope.spawn(move || churn(number, stop, &inboxes.0, &to_forkers));
        }
        // First only the main thread forks, then two threads at the same time.
        fork_often(100, forks, &inboxes.1, &to_churn);
        let forkers = [101, 102].map(|number| {
            let (inboxes, to_churn) = (Arc::clone(&inboxes), to_churn.clone());
            scope.spawn(move || fork_often(number, forks, &inboxes.1, &to_churn))
        });
        for forker in forkers {
            forker.join().expect("its checks passed");
        }
    });
    drop((inboxes, to_churn, to_forkers));

    let runs = HANDLER_RUNS.each_ref().map(|runs| runs.load(Ordering::Relaxed));
    let forks = usize::try_from(3 * forks).expect("few");
    assert_eq!(runs, [forks, forks, 0], "prepare, parent and child handlers run here");
    assert_live_near(before, SLACK_BLOCKS);
}

pub(crate) fn main() {
    // A tool that asks for a list of tests gets one.
    if std::env::args().any(|argument| argument == "--list") {
        println!("forks_of_a_busy_process: test");
        return;
    }
    if cfg!(pymalloc_bypass) {
        println!("test forks_of_a_busy_process ... ignored, it counts the heap's blocks");
        return;
    }
    common::watchdog();
    let forks =
        std::env::var("PYMALLOC_FORKS").map_or(FORKS, |forks| forks.parse().expect("PYMALLOC_FORKS is a number"));
    forks_of_a_busy_process(forks);
    println!("test forks_of_a_busy_process ... ok");
}
