//! Fork: the child of a program with many threads can allocate and free at once, and fork again.
//!
//! # Protocol
//! - *prepare* (in the forking thread): takes the debug hooks' locks, then stops the slow paths of the whole heap, that
//!   is takes every lock in the documented order. No pool, list, inbox or arena is then half changed anywhere, and no
//!   remote free is under way, because threads free into foreign pools only while they hold a door of their own (or the spare
//!   set's).
//! - Handlers of others that run between ours and the fork may allocate: locks admit the forking thread. They must not
//!   wait for another thread that may be waiting for the allocator; ours are registered before `main`, so that only
//!   handlers registered even earlier run in between.
//! - *parent*: lets go.
//! - *child*: lets go, then parks the sets of the threads that do not exist here. Their magazines stay filled: the
//!   thread that adopts a set uses them on, and `purge` empties them.
//!
//! A handler of others that itself forks, in between, finds the slow paths stopped; they stay so until the outer fork ends.
//!
//! What is lost in the child: blocks that other threads' programs held, as with any allocator; and a block that
//! another thread was just moving between a magazine and its program, one a thread at most; and, with the feature `hardened`,
//! a shelf of its quarantine that it was just moving to a magazine.
//!
//! `_Fork`, `vfork` and raw `clone` run no handlers: a child that shares memory or only calls `exec` is fine; a child
//! of `_Fork` in a program with many threads must not allocate. A `fork` in a signal handler that interrupted the
//! allocator would wait for itself: don't.

use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use crate::cache::{GLOBAL, ThreadCache, current, thread_token, with_thread};
use crate::debug;
use crate::hardened;
use crate::observe;
use crate::os;

/// The thread that is between prepare and parent or child; 0 when there is none.
static FORKING: AtomicUsize = AtomicUsize::new(0);

/// Whether the calling thread holds all locks for a fork.
#[inline]
pub(crate) fn this_thread_forks() -> bool {
    // Relaxed: a thread sees its own store; any other value, new or old, is another thread's.
    let forking = FORKING.load(Ordering::Relaxed);
    forking != 0 && forking == thread_token()
}

// Registered before main, so that our prepare handler is among the last to run: handlers of others that run after it
// must not wait for a thread that waits for the allocator.
crate::os::at_start!(watch_early);

#[cfg_attr(target_os = "linux", unsafe(link_section = ".text_pymalloc"))]
extern "C" fn watch_early() {
    if !os::BYPASS {
        watch();
    }
}

/// Registers the handlers, the first time.
pub(crate) fn watch() {
    static WATCHED: AtomicU32 = AtomicU32::new(0);
    // Relaxed: a flag alone; libc synchronises its list of handlers.
    if WATCHED.load(Ordering::Relaxed) == 0
        && WATCHED.compare_exchange(0, 1, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    {
        // No memory for the registration: the program runs, but must not fork with threads.
        os::on_fork(prepare, in_parent, in_child);
    }
}

/// Forks between the first process and this one.
static GENERATION: AtomicU32 = AtomicU32::new(0);

/// A number that differs between a process and each of its forked ancestors.
pub(crate) fn generation() -> u32 {
    // Relaxed: changes only in a child that has one thread.
    GENERATION.load(Ordering::Relaxed)
}

/// Forks that another's handler began after our `prepare` of the outer fork; the forking thread's own number.
static NESTED: AtomicU32 = AtomicU32::new(0);

unsafe extern "C" fn prepare() {
    if this_thread_forks() {
        // Relaxed: as in `this_thread_forks`.
        NESTED.fetch_add(1, Ordering::Relaxed);
        return;
    }
    observe::before_stop();
    debug::stop_all();
    let stopped = GLOBAL.stop_slow_paths();
    // Before the locks admit this thread, whoever holds them.
    observe::after_stop();
    debug_assert!(stopped, "a thread forks once at a time");
    // Relaxed: as in `this_thread_forks`.
    FORKING.store(thread_token(), Ordering::Relaxed);
}

/// Whether it was a nested fork that ended: the outer one holds the locks on, in its parent and in its child.
fn ends_nested() -> bool {
    // Relaxed (both): as in `this_thread_forks`.
    let nested = NESTED.load(Ordering::Relaxed);
    if nested != 0 {
        NESTED.store(nested - 1, Ordering::Relaxed);
    }
    nested != 0
}

unsafe extern "C" fn in_parent() {
    if ends_nested() {
        return;
    }
    // Relaxed: as in `this_thread_forks`.
    FORKING.store(0, Ordering::Relaxed);
    // SAFETY: `prepare` stopped them, on this thread.
    unsafe {
        observe::before_restart();
        GLOBAL.restart_slow_paths();
        debug::restart_all();
        observe::after_restart();
    }
}

unsafe extern "C" fn in_child() {
    // Relaxed: as in `generation`.
    GENERATION.fetch_add(1, Ordering::Relaxed);
    if ends_nested() {
        return;
    }
    // SAFETY: the same as in the parent: the locks are ours in this copy of the memory too.
    unsafe { in_parent() };
    hardened::forked();
    // Threads may have been between parking a set and saying so: start the list of parked sets anew.
    GLOBAL.forget_parked();
    with_thread(|cache| cache.set.enter(&GLOBAL, |_| cache.renew_thread()));
    let own = core::ptr::from_ref(&current().set);
    for set in GLOBAL.sets() {
        // SAFETY: a registered set.
        let Some(cache) = (unsafe { ThreadCache::of_set(&GLOBAL, set) }) else {
            continue;
        };
        // SAFETY: caches are never unmapped.
        let other = &unsafe { cache.as_ref() }.set;
        if !core::ptr::eq(other, own) {
            if !other.is_parked() {
                other.enter(&GLOBAL, |inside| inside.park());
            }
            GLOBAL.park(set);
        }
    }
}
