//! The purge thread beside an owner that only uses its magazine; which thread may start a purge thread; and the limit.
//!
//! Only the locks are the product's here. The rest repeats in simplified form, with counts for blocks: `cache/depot.rs`
//! (`stow`, `unstow`, `flush_depots`), `cache/tidy.rs` (`tidy_if_idle`), `purge/thread.rs` (`start`, `drop`),
//! `heap/mod.rs` (`take_pool`, `set_arena_limits`). None of these has an ordering of its own: only the locks order
//! their accesses.

use std::sync::Arc;

use loom::sync::atomic::AtomicUsize;
use loom::thread;

use crate::check;
use crate::lock::Lock;
use crate::sync::{AtomicU32, Ordering};

const SLOTS: usize = 2;

struct Cache {
    /// Blocks in the magazine; only its owner writes this.
    top: AtomicUsize,
    door: Lock<Cold>,
}

/// What the door guards.
#[derive(Default)]
struct Cold {
    /// Blocks in the depot.
    stowed: usize,
    /// Blocks that returned to their pools.
    home: usize,
    slow_calls: usize,
    /// Slow calls at the last tick.
    seen: usize,
}

impl Cache {
    fn new() -> Self {
        Self { top: AtomicUsize::new(0), door: Lock::new(Cold::default()) }
    }

    fn free(&self) {
        let top = self.top.load(Ordering::Relaxed);
        if top < SLOTS {
            return self.top.store(top + 1, Ordering::Release);
        }
        self.door.lock().with(|cold| {
            cold.slow_calls += 1;
            cold.stowed += SLOTS / 2;
            self.top.store(SLOTS / 2 + 1, Ordering::Release);
        });
    }

    /// Pops a block; returns whether there was one.
    fn alloc(&self) -> bool {
        let top = self.top.load(Ordering::Relaxed);
        if top > 0 {
            self.top.store(top - 1, Ordering::Release);
            return true;
        }
        self.door.lock().with(|cold| {
            cold.slow_calls += 1;
            let found = cold.stowed > 0;
            if found {
                cold.stowed -= 1;
            }
            found
        })
    }

    /// `tidy_if_idle`.
    fn tick(&self) {
        self.door.lock().with(|cold| {
            if cold.seen == cold.slow_calls {
                cold.home += core::mem::take(&mut cold.stowed);
            } else {
                cold.seen = cold.slow_calls;
            }
        });
    }
}

#[test]
fn a_tick_takes_what_is_in_the_depot_of_a_running_thread_and_leaves_its_magazine() {
    check(|| {
        let cache = Arc::new(Cache::new());
        // One block is in the depot, and two in the magazine.
        for _ in 0..3 {
            cache.free();
        }
        let purging = {
            let cache = cache.clone();
            thread::spawn(move || {
                cache.tick();
                cache.tick();
            })
        };
        let mut taken = 0;
        for _ in 0..3 {
            taken += usize::from(cache.alloc());
        }
        cache.free();
        purging.join().unwrap();
        let top = cache.top.load(Ordering::Relaxed);
        cache
            .door
            .lock()
            .with(|cold| assert_eq!(top + cold.stowed + cold.home + taken, 3 + 1, "a block is lost or doubled"));
    });
}

/// `TAKEN_BY`, in a process whose generation is 0.
struct PurgeThreads {
    taken_by: AtomicU32,
    running: AtomicU32,
}

impl PurgeThreads {
    fn start(&self) -> bool {
        let own = 1;
        let taken = self.taken_by.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |by| (by != own).then_some(own));
        if taken.is_err() {
            return false;
        }
        assert_eq!(self.running.fetch_add(1, Ordering::Relaxed), 0, "two purge threads");
        true
    }

    fn stop(&self) {
        self.running.fetch_sub(1, Ordering::Relaxed);
        // In the product, the joins of `start`'s caller order this.
        self.taken_by.store(0, Ordering::Relaxed);
    }
}

#[test]
fn of_two_that_start_a_purge_thread_at_once_one_is_refused() {
    check(|| {
        let threads = Arc::new(PurgeThreads { taken_by: AtomicU32::new(0), running: AtomicU32::new(0) });
        let other = {
            let threads = threads.clone();
            thread::spawn(move || threads.start())
        };
        let started = [threads.start(), other.join().unwrap()];
        assert_eq!(started.into_iter().filter(|&started| started).count(), 1);
        threads.stop();
        assert!(threads.start());
    });
}

/// Arenas mapped, and the limit on them.
struct Arenas {
    mapped: usize,
    limit: usize,
}

struct Heap {
    state: Lock<Arenas>,
}

impl Heap {
    /// `take_pool`, with no free pool.
    fn map_arena(&self) -> bool {
        self.state.lock().with(|state| {
            let may = state.mapped < state.limit;
            if may {
                state.mapped += 1;
            }
            may
        })
    }

    /// `set_arena_limits`; returns the number of arenas.
    fn set_limit(&self, limit: usize) -> usize {
        self.state.lock().with(|state| {
            state.limit = limit;
            state.mapped
        })
    }
}

#[test]
fn no_arena_is_mapped_beyond_a_limit_once_it_is_set() {
    check(|| {
        let heap = Arc::new(Heap { state: Lock::new(Arenas { mapped: 0, limit: 2 }) });
        let mapping = {
            let heap = heap.clone();
            thread::spawn(move || usize::from(heap.map_arena()) + usize::from(heap.map_arena()))
        };
        let there = heap.set_limit(1);
        let mapped = mapping.join().unwrap();
        assert!(mapped <= there.max(1), "{mapped} arenas, though {there} were there when the limit of 1 was set");
        heap.state.lock().with(|state| assert_eq!(state.mapped, mapped));
    });
}
