//! The ends of threads: destructors that free and allocate when the thread's cache may be gone already, and threads
//! whose only call of the allocator is a free.

mod common;

use std::alloc::Layout;
use std::cell::RefCell;
use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use common::{Block, Rng, assert_live_near, assert_sound, one_at_a_time};
use pymalloc::Pymalloc;

#[global_allocator]
static GLOBAL: Pymalloc = Pymalloc::new();

const THREADS: usize = 50;
const SLACK_BLOCKS: usize = 32;

/// Blocks of many classes.
fn blocks(seed: usize) -> Vec<Block> {
    let mut rng = Rng::new(seed as u64);
    (0..100).map(|serial| Block::random(serial, &mut rng)).collect()
}

static DROPS: AtomicUsize = AtomicUsize::new(0);

/// Frees and allocates when it is dropped.
struct Restless(Vec<Block>);

impl Drop for Restless {
    fn drop(&mut self) {
        self.0.clear();
        self.0 = blocks(self.0.capacity());
        DROPS.fetch_add(1, Ordering::Relaxed);
    }
}

thread_local! {
    static FIRST: RefCell<Restless> = const { RefCell::new(Restless(Vec::new())) };
    static SECOND: RefCell<Restless> = RefCell::new(Restless(blocks(2)));
}

#[test]
fn thread_locals_free_and_allocate_in_their_drop() {
    let _one = one_at_a_time();
    let before = assert_sound().blocks_live();
    DROPS.store(0, Ordering::Relaxed);
    let threads: Vec<_> = (0..THREADS)
        .map(|number| {
            let from_here = blocks(number);
            thread::spawn(move || {
                FIRST.with_borrow_mut(|first| first.0 = from_here);
                let from_there = blocks(number);
                SECOND.with_borrow_mut(|second| second.0.extend(from_there));
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("its checks passed");
    }
    assert_eq!(DROPS.load(Ordering::Relaxed), 2 * THREADS);
    assert_live_near(before, SLACK_BLOCKS);
}

#[test]
#[cfg(not(pymalloc_bypass))]
fn thread_locals_are_destroyed_while_their_thread_has_its_cache() {
    static DROPS_WITH_CACHE: AtomicUsize = AtomicUsize::new(0);

    struct Looks;

    impl Drop for Looks {
        fn drop(&mut self) {
            if pymalloc::thread_caches().iter().any(|cache| cache.used_by == pymalloc::stats::CacheUse::Caller) {
                DROPS_WITH_CACHE.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    thread_local! {
        static LOOKS: Looks = const { Looks };
    }

    let _one = one_at_a_time();
    for number in 0..THREADS {
        thread::spawn(move || {
            drop(blocks(number));
            LOOKS.with(|_| ());
        })
        .join()
        .expect("its checks passed");
    }
    assert_eq!(DROPS_WITH_CACHE.load(Ordering::Relaxed), THREADS);
}

/// Runs `main` once for each block, on threads of the system, because Rust's own threads allocate before they run
/// anything.
#[cfg(unix)]
fn run_and_join<const COUNT: usize>(
    main: extern "C-unwind" fn(*mut c_void) -> *mut c_void,
    blocks: [Box<Block>; COUNT],
) {
    blocks.map(|block| keys::start(main, block)).into_iter().for_each(keys::join);
}

/// As above.
#[cfg(windows)]
fn run_and_join<const COUNT: usize>(
    main: extern "C-unwind" fn(*mut c_void) -> *mut c_void,
    blocks: [Box<Block>; COUNT],
) {
    common::windows_threads::run_and_join(main, blocks.map(|block| Box::into_raw(block).cast()));
}

fn boxed_block(serial: usize) -> Box<Block> {
    let layout = Layout::from_size_align(8 + serial % 500, 8).expect("valid");
    Box::new(Block::new(serial as u64, layout))
}

/// Its first and only calls of the allocator are frees.
extern "C-unwind" fn only_free(block: *mut c_void) -> *mut c_void {
    // SAFETY: `start` made it from a box, for this thread.
    drop(unsafe { Box::from_raw(block.cast::<Block>()) });
    null_mut()
}

#[test]
fn the_first_call_of_a_thread_may_be_a_free() {
    let _one = one_at_a_time();
    let before = assert_sound().blocks_live();
    for wave in 0..THREADS {
        run_and_join(only_free, [0, 1, 2].map(|number| boxed_block(wave + number)));
    }
    assert_live_near(before, SLACK_BLOCKS);
}

extern "C-unwind" fn allocate_and_free(block: *mut c_void) -> *mut c_void {
    only_free(block);
    drop(boxed_block(block.addr() / 16));
    null_mut()
}

#[test]
fn ten_thousand_threads_start_and_end_and_leave_nothing() {
    let _one = one_at_a_time();
    let before = assert_sound();
    const AT_ONCE: usize = 50;
    for wave in 0..10_000 / AT_ONCE {
        let blocks: [_; AT_ONCE] = std::array::from_fn(|number| boxed_block(wave * AT_ONCE + number));
        run_and_join(allocate_and_free, blocks);
    }
    let after = assert_sound();
    assert_live_near(before.blocks_live(), SLACK_BLOCKS);
    if !cfg!(pymalloc_bypass) {
        // Threads that start later use what ended threads left.
        let caches = |stats: &pymalloc::stats::Stats| stats.caches_live + stats.caches_parked;
        assert!(caches(&after) <= caches(&before) + AT_ONCE + 1, "{after}");
        // Each cache may have a pool of each class by now, which is an arena. How many caches there are depends on how
        // many threads ran at once. A pool that each thread left behind would be 156 arenas.
        assert!(after.arenas_mapped <= before.arenas_mapped + caches(&after) + 1, "{after}");
    }
}

#[cfg(unix)]
#[path = "unix/keys.rs"]
mod keys;

#[cfg(windows)]
#[path = "windows/process_end.rs"]
mod process_end;
