//! Threads that end with destructors of pthread keys, which free and allocate, and by `pthread_exit`.

use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::ptr::{null, null_mut};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::common::{self, Block, assert_live_near, assert_sound, one_at_a_time};
use crate::{SLACK_BLOCKS, THREADS, blocks, boxed_block, only_free};

/// glibc's PTHREAD_DESTRUCTOR_ITERATIONS: it calls no destructor a fifth time.
const ROUNDS: usize = 4;

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
    // Last, for whoever waits for it. Release: what this thread did happened before.
    KEY_RUNS.fetch_add(1, Ordering::Release);
}

/// A key from before the allocator's first use: glibc calls its destructor before those of the
/// keys that came later.
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
    // None that ended took a cache again, which it could not leave any more. (Threads of libtest's come and go.)
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

pub(super) fn start(main: extern "C-unwind" fn(*mut c_void) -> *mut c_void, block: Box<Block>) -> libc::pthread_t {
    let mut thread = MaybeUninit::uninit();
    let argument = Box::into_raw(block).cast();
    // SAFETY: `thread` is a place for the handle; both mains take the box.
    let error = unsafe { pthread_create(thread.as_mut_ptr(), null(), main, argument) };
    assert_eq!(error, 0);
    // SAFETY: the thread was made, so its handle was written.
    unsafe { thread.assume_init() }
}

pub(super) fn join(thread: libc::pthread_t) {
    // SAFETY: each caller joins its thread once and has not detached it.
    assert_eq!(unsafe { libc::pthread_join(thread, null_mut()) }, 0);
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
    // Nobody can wait for a detached thread, but its destructors count. A hang ends by the
    // watchdog.
    common::watchdog();
    while KEY_RUNS.load(Ordering::Acquire) < 2 * ROUNDS * THREADS {
        thread::sleep(Duration::from_millis(1));
    }
    common::watchdog_off();
    assert_live_near(before, SLACK_BLOCKS);
}
