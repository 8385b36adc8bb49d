//! The ends of threads: destructors that free and allocate when the thread's cache may be gone already, and threads
//! whose only call of the allocator is a free.

mod common;

use std::alloc::Layout;
use std::cell::RefCell;
use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::ptr::{null, null_mut};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use common::{Block, Rng, assert_live_near, assert_sound, one_at_a_time};
use pymalloc::Pymalloc;

#[global_allocator]
static GLOBAL: Pymalloc = Pymalloc::new();

const THREADS: usize = 50;
/// glibc's PTHREAD_DESTRUCTOR_ITERATIONS: it calls no destructor a fifth time.
const ROUNDS: usize = 4;
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

/// Destructors of pthread keys that ran.
static KEY_RUNS: AtomicUsize = AtomicUsize::new(0);

/// The value of a key of one thread.
struct Armed {
    key: libc::pthread_key_t,
    rounds_left: usize,
    held: Vec<Block>,
}

fn create_key() -> libc::pthread_key_t {
    let mut key = 0;
    // SAFETY: `key` is a place for the key; the destructor takes what `arm` sets.
    let error = unsafe { libc::pthread_key_create(&raw mut key, Some(on_thread_end)) };
    assert_eq!(error, 0);
    key
}

fn arm(key: libc::pthread_key_t, rounds_left: usize, held: Vec<Block>) {
    let value = Box::into_raw(Box::new(Armed { key, rounds_left, held }));
    // SAFETY: the key exists for the whole life of the process.
    assert_eq!(unsafe { libc::pthread_setspecific(key, value.cast()) }, 0);
}

unsafe extern "C" fn on_thread_end(value: *mut c_void) {
    // SAFETY: the value is what `arm` set, and glibc clears it before this call.
    let armed = *unsafe { Box::from_raw(value.cast::<Armed>()) };
    let Armed { key, rounds_left, held } = armed;
    drop(held);
    let held = blocks(rounds_left);
    if rounds_left > 1 {
        arm(key, rounds_left - 1, held);
    } else {
        drop(held);
    }
    // This comes last, because a thread waits for it. Release: what this thread did happened before.
    KEY_RUNS.fetch_add(1, Ordering::Release);
}

/// A key that is made before the allocator's first use: glibc calls its destructor before those of later keys.
static EARLY_KEY: OnceLock<libc::pthread_key_t> = OnceLock::new();

extern "C" fn before_main() {
    EARLY_KEY.set(create_key()).expect("called once");
}

// The loader calls this before `main`, so before Rust's runtime allocates anything.
// SAFETY: the section holds pointers to functions of this type.
#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = before_main;

fn early_key() -> libc::pthread_key_t {
    *EARLY_KEY.get().expect("set before main")
}

fn late_key() -> libc::pthread_key_t {
    static LATE_KEY: OnceLock<libc::pthread_key_t> = OnceLock::new();
    *LATE_KEY.get_or_init(|| {
        drop(blocks(0));
        create_key()
    })
}

#[test]
fn key_destructors_free_and_allocate_and_arm_again() {
    let _one = one_at_a_time();
    let keys = [early_key(), late_key()];
    let stats = assert_sound();
    let before = stats.blocks_live();
    KEY_RUNS.store(0, Ordering::Relaxed);
    for wave in 0..THREADS {
        let threads = [1, ROUNDS - 1, ROUNDS].map(|rounds| {
            let from_here = blocks(wave);
            thread::spawn(move || {
                arm(keys[0], rounds, from_here);
                arm(keys[1], rounds, blocks(wave));
            })
        });
        for thread in threads {
            thread.join().expect("its checks passed");
        }
    }
    assert_eq!(KEY_RUNS.load(Ordering::Acquire), THREADS * keys.len() * (1 + ROUNDS - 1 + ROUNDS));
    assert_live_near(before, SLACK_BLOCKS);
    // No ended thread took a cache again; it could not give that back any more. (libtest's threads come and go.)
    assert!(assert_sound().caches_live < stats.caches_live + THREADS / 2);
}

// Rust's own threads allocate before they run anything, so these are the system's. The ABI is
// `C-unwind` because `pthread_exit` unwinds the frames of the thread.
unsafe extern "C-unwind" {
    fn pthread_create(
        thread: *mut libc::pthread_t,
        attributes: *const libc::pthread_attr_t,
        main: extern "C-unwind" fn(*mut c_void) -> *mut c_void,
        argument: *mut c_void,
    ) -> c_int;
    fn pthread_exit(value: *mut c_void) -> !;
}

fn start(main: extern "C-unwind" fn(*mut c_void) -> *mut c_void, block: Box<Block>) -> libc::pthread_t {
    let mut thread = MaybeUninit::uninit();
    let argument = Box::into_raw(block).cast();
    // SAFETY: `thread` is a place for the handle; both mains take the box.
    let error = unsafe { pthread_create(thread.as_mut_ptr(), null(), main, argument) };
    assert_eq!(error, 0);
    // SAFETY: the thread was created, so its handle was written.
    unsafe { thread.assume_init() }
}

fn join(thread: libc::pthread_t) {
    // SAFETY: each caller joins its thread once and has not detached it.
    assert_eq!(unsafe { libc::pthread_join(thread, null_mut()) }, 0);
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
        let threads = [0, 1, 2].map(|number| start(only_free, boxed_block(wave + number)));
        threads.into_iter().for_each(join);
    }
    assert_live_near(before, SLACK_BLOCKS);
}

extern "C-unwind" fn free_and_exit(block: *mut c_void) -> *mut c_void {
    // No frame that `pthread_exit` unwinds may have anything to drop.
    only_free(block);
    arm(early_key(), ROUNDS, Vec::new());
    arm(late_key(), ROUNDS, Vec::new());
    // SAFETY: only frames without destructors are unwound, through ABIs that allow it.
    unsafe { pthread_exit(null_mut()) }
}

#[test]
fn detached_threads_may_end_by_pthread_exit() {
    let _one = one_at_a_time();
    late_key();
    let before = assert_sound().blocks_live();
    KEY_RUNS.store(0, Ordering::Relaxed);
    for number in 0..THREADS {
        let thread = start(free_and_exit, boxed_block(number));
        // SAFETY: the thread exists until it is detached; nobody joins it.
        assert_eq!(unsafe { libc::pthread_detach(thread) }, 0);
    }
    // No thread can wait for a detached thread, but its destructors are counted. The watchdog ends a hang.
    common::watchdog();
    while KEY_RUNS.load(Ordering::Acquire) < 2 * ROUNDS * THREADS {
        thread::sleep(Duration::from_millis(1));
    }
    common::watchdog_off();
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
        let threads: Vec<_> =
            (0..AT_ONCE).map(|number| start(allocate_and_free, boxed_block(wave * AT_ONCE + number))).collect();
        threads.into_iter().for_each(join);
    }
    let after = assert_sound();
    assert_live_near(before.blocks_live(), SLACK_BLOCKS);
    if !cfg!(pymalloc_bypass) {
        // Threads that start later use what ended threads left.
        let caches = |stats: &pymalloc::stats::Stats| stats.caches_live + stats.caches_parked;
        assert!(caches(&after) <= caches(&before) + AT_ONCE + 1, "{after}");
        assert!(after.arenas_mapped <= before.arenas_mapped + 2, "{after}");
    }
}
