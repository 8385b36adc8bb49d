//! In steady state object pools do not allocate: counted by the global allocator, `Pymalloc` behind it.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::future::Future;
use std::sync::Barrier;
use std::task::{Context, Waker};
use std::thread;
use std::time::Duration;

use pymalloc::Pymalloc;
use pymalloc_object_pool::{LocalPool, ObjectPool};

struct Counting(Pymalloc);

thread_local! {
    /// Calls of the allocator by this thread.
    static CALLS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: as `Pymalloc`, to which every call goes.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.set(CALLS.get() + 1);
        // SAFETY: the caller's promise.
        unsafe { self.0.alloc(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        CALLS.set(CALLS.get() + 1);
        // SAFETY: the caller's promise.
        unsafe { self.0.dealloc(start, layout) }
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        CALLS.set(CALLS.get() + 1);
        // SAFETY: the caller's promise.
        unsafe { self.0.realloc(start, layout, bytes) }
    }
}

#[global_allocator]
static GLOBAL: Counting = Counting(Pymalloc::new());

/// Calls of the allocator by `body`'s second run; the first one warms up.
fn calls(mut body: impl FnMut()) -> u64 {
    body();
    let before = CALLS.get();
    body();
    CALLS.get() - before
}

#[test]
fn the_count_counts() {
    assert_eq!(calls(|| drop(std::hint::black_box(Box::new(1)))), 2);
}

#[test]
fn a_pool_in_steady_state_does_not_allocate() {
    let pool = ObjectPool::builder(|| [0_u8; 100]).reset(|object| object[0] = 0).build().unwrap();
    assert_eq!(calls(|| (0..1000).for_each(|_| drop(pool.acquire()))), 0);
    // More than a magazine holds, so that objects move between it and the stock.
    assert_eq!(
        calls(|| {
            let mut guards: [_; 300] = std::array::from_fn(|_| Some(pool.acquire()));
            guards.iter_mut().for_each(|guard| drop(guard.take()));
        }),
        0
    );
    assert_eq!(calls(|| drop(pool.try_acquire())), 0);
}

#[test]
fn many_pools_used_in_turns_do_not_allocate() {
    let pools: Vec<_> = (0..20_u8).map(|number| ObjectPool::new(move || number)).collect();
    let turns = || {
        for number in (0..20_u8).chain((0..20).rev()) {
            assert_eq!(*pools[usize::from(number)].acquire(), number);
        }
    };
    assert_eq!(calls(turns), 0);
}

#[test]
fn a_local_pool_in_steady_state_does_not_allocate() {
    let pool = LocalPool::builder(|| [0_u8; 100]).reset(|object| object[0] = 0).build().unwrap();
    assert_eq!(calls(|| drop([(); 100].map(|()| pool.acquire()))), 0);
}

#[test]
fn a_guard_that_outlives_its_pool_gets_no_magazine_any_more() {
    let pool = ObjectPool::new(|| [0_u8; 100]);
    let (guard, last) = (pool.acquire(), pool.acquire());
    drop(pool);
    let calls = thread::spawn(move || {
        let before = CALLS.get();
        drop(guard);
        CALLS.get() - before
    });
    assert_eq!(calls.join().unwrap(), 1, "the object's memory is freed");
    drop(last);
}

#[test]
fn waiting_does_not_allocate() {
    let pool = ObjectPool::builder(|| 1).max_total(1).build().unwrap();
    let only = pool.acquire();
    assert_eq!(calls(|| assert!(pool.acquire_timeout(Duration::from_micros(10)).is_err())), 0);
    // Both lists of the queue get their memory: one for those that wait, one for what was granted.
    let mut waiting = std::pin::pin!(pool.acquire_async());
    let context = &mut Context::from_waker(Waker::noop());
    assert!(waiting.as_mut().poll(context).is_pending());
    drop(only);
    assert!(waiting.poll(context).is_ready());

    // Threads that hand the only object to each other; each meets the pool before it counts.
    let start = Barrier::new(3);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                drop(pool.acquire_timeout(Duration::from_micros(10)));
                let pairs = || (0..3000).for_each(|_| drop(pool.acquire()));
                pairs();
                start.wait();
                let calls = calls(pairs);
                // Nobody ends before: the last one to wake a thread that has ended frees its waker.
                start.wait();
                assert_eq!(calls, 0);
            });
        }
    });
}
