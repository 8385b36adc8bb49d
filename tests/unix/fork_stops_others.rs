//! While a thread forks, the others stand still in the allocator's slow paths: they do not pass the locks that it
//! holds.
//!
//! For each way into a slow path there is one fork, and in a fork handler, which runs while the locks are held, one
//! other thread that goes that way. The handler waits until the kernel says that the thread sleeps, or else that it
//! came through: one of the two happens, however long it takes. A handler that was registered after the allocator's
//! runs before it, and may wait for threads that allocate: so the allocator has to register its own before anybody asks
//! it for a block. Without libtest, because the main thread has to be the one that forks.

#[path = "../common/mod.rs"]
mod common;

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use common::assert_sound;
use pymalloc::{Pymalloc, flush_thread_cache, purge};

#[global_allocator]
static GLOBAL: Pymalloc = Pymalloc::new();

/// More than a thread has at hand.
const BLOCKS: usize = 20_000;

/// Ways into a slow path, by the lock that each meets first.
const WAYS: [(&str, fn()); 5] = [
    ("its own door, by a flush", flush_thread_cache),
    ("its own door, by a refill", allocate_many),
    ("every door, by a purge", purge_all),
    ("the lock of who stops all, by the self-check", check),
    ("its own door, by its end", || ()),
];

fn allocate_many() {
    let blocks: Vec<Box<usize>> = (0..BLOCKS).map(Box::new).collect();
    assert!(blocks.iter().enumerate().all(|(index, block)| **block == index));
}

fn purge_all() {
    purge();
}

fn check() {
    assert_sound();
}

/// How far the thread is that is to meet the locks.
static STAGE: AtomicU32 = AtomicU32::new(AWAY);
/// There is none: the next fork is not to wait for it.
const AWAY: u32 = 0;
/// It has blocks and a cache, and waits for the locks to be held.
const READY: u32 = 1;
/// They are: it may go.
const LOCKED: u32 = 2;
/// It goes. What it may sleep on from here is a lock of the allocator.
const GOING: u32 = 3;

/// What the kernel calls the thread.
static THREAD: AtomicU32 = AtomicU32::new(0);
/// Whether the handler saw the thread sleep.
static HELD_UP: AtomicBool = AtomicBool::new(false);

/// Waits for a stage, without sleeping on a futex.
fn await_stage(stage: u32) {
    // Acquire: pairs with the Releases of `reach`.
    while STAGE.load(Ordering::Acquire) != stage {
        thread::yield_now();
    }
}

fn reach(stage: u32) {
    // Release: pairs with the Acquire of `await_stage`.
    STAGE.store(stage, Ordering::Release);
}

/// What proc(5) calls the state of a thread of this process; `None` when it has ended.
fn state_of(thread: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/self/task/{thread}/stat")).ok()?;
    let (_, behind_name) = stat.rsplit_once(") ")?;
    behind_name.chars().next()
}

/// Runs in the forking thread, between the allocator's own handler and the fork.
unsafe extern "C" fn prepare() {
    if STAGE.load(Ordering::Relaxed) != READY {
        return;
    }
    let thread = THREAD.load(Ordering::Relaxed);
    reach(LOCKED);
    await_stage(GOING);
    let held_up = loop {
        match state_of(thread) {
            Some('S') => break true,
            // It ended: no lock stopped it.
            None | Some('Z' | 'X') => break false,
            _ => thread::yield_now(),
        }
    };
    HELD_UP.store(held_up, Ordering::Relaxed);
    // The forking thread itself is let in, and finds nothing half done.
    check();
    allocate_many();
}

extern "C" fn register() {
    // SAFETY: a function that lives as long as the program.
    assert_eq!(unsafe { libc::pthread_atfork(Some(prepare), None, None) }, 0);
}

// Before the allocator's own handlers, so that this one runs after them, while they hold all locks.
// SAFETY: the section holds pointers to functions of this type.
#[used]
#[unsafe(link_section = ".init_array.00098")]
static REGISTER: extern "C" fn() = register;

/// Runs in the forking thread too, before the allocator's own handler: nothing is stopped yet, so it may wait for
/// others.
unsafe extern "C" fn prepare_before_the_allocator() {
    let other = thread::spawn(|| {
        allocate_many();
        check();
    });
    other.join().expect("its checks passed");
}

extern "C" fn register_later() {
    // SAFETY: a function that lives as long as the program.
    assert_eq!(unsafe { libc::pthread_atfork(Some(prepare_before_the_allocator), None, None) }, 0);
}

// After the allocator's own handlers, but before the program's first block.
// SAFETY: the section holds pointers to functions of this type.
#[used]
#[unsafe(link_section = ".init_array.00102")]
static REGISTER_LATER: extern "C" fn() = register_later;

/// Forks; the child looks at the heap and uses it.
fn fork() {
    // SAFETY: the child only calls what may be called after a fork with threads: this allocator, and `_exit`.
    let pid = unsafe { libc::fork() };
    assert_ne!(pid, -1);
    if pid == 0 {
        check();
        allocate_many();
        purge_all();
        check();
        // SAFETY: ends the child.
        unsafe { libc::_exit(0) };
    }
    let mut status = 0;
    // SAFETY: our own child, waited for once.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    assert_eq!(status, 0, "wait status of a forked child");
}

/// A thread that has a cache with something in it, and goes its way once the locks are held.
fn meet_the_locks(way: fn()) {
    allocate_many();
    // SAFETY: always allowed.
    let thread = unsafe { libc::gettid() };
    THREAD.store(thread.unsigned_abs(), Ordering::Relaxed);
    reach(READY);
    await_stage(LOCKED);
    reach(GOING);
    way();
}

fn no_thread_passes_the_locks_that_a_forking_thread_holds() {
    for (lock, way) in WAYS {
        let other = thread::spawn(move || meet_the_locks(way));
        await_stage(READY);
        fork();
        assert!(HELD_UP.swap(false, Ordering::Relaxed), "a thread passed a lock that the forking one held: {lock}");
        other.join().expect("its checks passed");
        reach(AWAY);
        check();
    }
}

pub(crate) fn main() {
    if std::env::args().any(|argument| argument == "--list") {
        println!("no_thread_passes_the_locks_that_a_forking_thread_holds: test");
        return;
    }
    if cfg!(pymalloc_bypass) {
        println!(
            "test no_thread_passes_the_locks_that_a_forking_thread_holds ... ignored, the locks are the C library's"
        );
        return;
    }
    common::watchdog();
    no_thread_passes_the_locks_that_a_forking_thread_holds();
    println!("test no_thread_passes_the_locks_that_a_forking_thread_holds ... ok");
}
