//! A fork handler of another library that was registered before the allocator's, and itself forks: the outer child
//! still allocates at once. Without libtest, because the main thread has to be the one that forks.

#[path = "../common/mod.rs"]
mod common;

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use pymalloc::Pymalloc;

#[global_allocator]
static GLOBAL: Pymalloc = Pymalloc::new();

const FORKS: u32 = 60;

static NESTED: AtomicU32 = AtomicU32::new(0);

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Forks, runs `child` in the child, and waits for it.
fn fork(child: fn()) {
    // SAFETY: the child only calls what may be called after a fork with threads: this allocator, and `_exit`.
    let pid = unsafe { libc::fork() };
    assert_ne!(pid, -1);
    if pid == 0 {
        child();
        // SAFETY: ends the child.
        unsafe { libc::_exit(0) };
    }
    let mut status = 0;
    // SAFETY: our own child, waited for once.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    assert_eq!(status, 0, "wait status of a forked child");
}

unsafe extern "C" fn prepare() {
    if !INSIDE.replace(true) {
        // Wants all locks, which this thread has.
        pymalloc::self_check().expect("a sound heap while it forks");
        // They admit it, too.
        let blocks: Vec<Box<u64>> = (0..1000).map(Box::new).collect();
        assert_eq!(blocks.iter().map(|block| **block).sum::<u64>(), 499_500);
        // musl holds a lock of its own while handlers run, so that in a program with threads a fork inside one waits
        // for itself, whichever allocator there is; what is left there is a handler that allocates.
        if !cfg!(target_env = "musl") {
            fork(|| ());
        }
        NESTED.fetch_add(1, Ordering::Relaxed);
        INSIDE.set(false);
    }
}

extern "C" fn register() {
    // SAFETY: a function that lives as long as the program.
    assert_eq!(unsafe { libc::pthread_atfork(Some(prepare), None, None) }, 0);
}

// Before the allocator's own handlers, so that this one runs after them, while they hold all locks.
#[used]
#[unsafe(link_section = ".init_array.00098")]
static REGISTER: extern "C" fn() = register;

pub(crate) fn main() {
    if std::env::args().any(|argument| argument == "--list") {
        println!("a_handler_may_fork: test");
        return;
    }
    common::watchdog();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for seed in 0..4_u8 {
            let stop = &stop;
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let blocks: Vec<Vec<u8>> = (0..2000).map(|index| vec![seed; index % 512 + 1]).collect();
                    assert!(blocks.iter().all(|block| block[0] == seed));
                    pymalloc::flush_thread_cache();
                }
            });
        }
        for _ in 0..FORKS {
            fork(|| {
                let blocks: Vec<Box<u64>> = (0..1000).map(Box::new).collect();
                assert_eq!(blocks.iter().map(|block| **block).sum::<u64>(), 499_500);
                pymalloc::self_check().expect("a sound heap in the child");
            });
            pymalloc::self_check().expect("a sound heap in the parent");
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(NESTED.load(Ordering::Relaxed), FORKS);
    println!("test a_handler_may_fork ... ok");
}
