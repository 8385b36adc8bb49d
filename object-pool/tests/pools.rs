//! Object pools as programs use them: drops counted, panics at every point, threads that come and go, waiting.

use std::cell::RefCell;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use pymalloc::Pymalloc;
use pymalloc_object_pool::{LocalPool, ObjectPool, PoolBuilder, PoolConfigError, PoolStats, Pooled};

#[global_allocator]
static GLOBAL: Pymalloc = Pymalloc::new();

/// Longer than any test takes: a wait that ends by it is a failure.
const LONG: Duration = Duration::from_secs(60);

/// Counts objects made and dropped, and panics when it is told to.
#[derive(Default)]
struct Ledger {
    made: AtomicUsize,
    live: AtomicUsize,
    in_factory: AtomicBool,
    in_reset: AtomicBool,
    in_drop: AtomicBool,
}

impl Ledger {
    // SeqCst here and below: the ledger is no part of what is tested, and must not be in doubt.
    fn live(&self) -> usize {
        self.live.load(Ordering::SeqCst)
    }

    fn trip(flag: &AtomicBool, place: &str) {
        if flag.swap(false, Ordering::SeqCst) {
            panic!("in the {place}, as the test wants it");
        }
    }

    fn object(self: &Arc<Self>) -> Object {
        Self::trip(&self.in_factory, "factory");
        self.made.fetch_add(1, Ordering::SeqCst);
        self.live.fetch_add(1, Ordering::SeqCst);
        Object { ledger: self.clone(), whole: true, uses: 0 }
    }

    /// A pool of this ledger's objects.
    fn pool(self: &Arc<Self>) -> PoolBuilder<Object> {
        let (maker, resetter) = (self.clone(), self.clone());
        ObjectPool::builder(move || maker.object()).reset(move |object: &mut Object| {
            Self::trip(&resetter.in_reset, "reset");
            object.uses += 1;
        })
    }
}

struct Object {
    ledger: Arc<Ledger>,
    whole: bool,
    uses: usize,
}

impl Drop for Object {
    fn drop(&mut self) {
        assert!(std::mem::replace(&mut self.whole, false), "dropped twice");
        self.ledger.live.fetch_sub(1, Ordering::SeqCst);
        if !thread::panicking() {
            Ledger::trip(&self.ledger.in_drop, "drop");
        }
    }
}

fn panics(body: impl FnOnce()) -> bool {
    catch_unwind(AssertUnwindSafe(body)).is_err()
}

/// The counts that must hold of a pool that nobody else uses.
fn assert_sum(stats: PoolStats) {
    let there = stats.idle as u64 + stats.in_use as u64 + stats.dropped + stats.detached;
    assert_eq!(stats.created + stats.adopted, there, "{stats}");
}

#[test]
fn an_object_comes_back_reset_and_is_used_again() {
    let ledger = Arc::new(Ledger::default());
    let pool = ledger.pool().build().unwrap();
    for round in 0..1000 {
        assert_eq!(pool.acquire().uses, round);
    }
    let stats = pool.stats();
    assert_eq!((stats.created, stats.reused, stats.idle, stats.in_use, stats.high_water), (1, 999, 1, 0, 1));
    drop(pool);
    assert_eq!(ledger.live(), 0);
}

#[test]
fn try_acquire_never_creates() {
    let ledger = Arc::new(Ledger::default());
    let pool = ledger.pool().prefill(2).build().unwrap();
    let both = [pool.try_acquire(), pool.try_acquire()];
    assert!(both.iter().all(Option::is_some));
    assert!(pool.try_acquire().is_none());
    drop(both);
    assert!(pool.try_acquire().is_some());
    assert_eq!(ledger.made.load(Ordering::SeqCst), 2);
}

#[test]
fn no_more_than_max_idle_are_kept_and_none_fewer() {
    for max_idle in [0, 1, 2, 3, 10, 64, 65, 200] {
        let ledger = Arc::new(Ledger::default());
        let pool = ledger.pool().max_idle(max_idle).build().unwrap();
        drop((0..300).map(|_| pool.acquire()).collect::<Vec<_>>());
        assert_eq!(ledger.live(), max_idle);
        let stats = pool.stats();
        assert_eq!((stats.idle, stats.in_use, stats.high_water), (max_idle, 0, 300));
        assert_eq!(stats.dropped, 300 - max_idle as u64);
        assert_sum(stats);
        drop(pool);
        assert_eq!(ledger.live(), 0);
    }
}

#[test]
fn a_detached_object_is_the_programs_and_can_be_released_again() {
    let ledger = Arc::new(Ledger::default());
    let pool = ledger.pool().max_total(1).build().unwrap();
    let object = Pooled::detach(pool.acquire());
    assert_eq!(pool.stats().in_use, 0);
    let second = pool.acquire();
    assert!(pool.release(object).is_err(), "max_total is reached");
    assert_eq!(ledger.live(), 1, "the object was given back and dropped here");
    drop(Pooled::detach(second));
    assert!(pool.release(ledger.object()).is_ok());
    let stats = pool.stats();
    assert_eq!((stats.created, stats.adopted, stats.detached, stats.idle), (2, 1, 2, 1));
    assert_sum(stats);
    assert!(pool.try_acquire().is_some());
    drop(pool);
    assert_eq!(ledger.live(), 0);
}

#[test]
fn builders_refuse_what_contradicts_itself() {
    let builder = || ObjectPool::builder(String::new);
    assert_eq!(builder().max_total(0).build().unwrap_err(), PoolConfigError::NoObjects);
    assert_eq!(
        builder().prefill(3).max_total(2).build().unwrap_err(),
        PoolConfigError::PrefillTooLarge { prefill: 3, limit: 2 }
    );
    assert_eq!(
        builder().magazine(1000).build().unwrap_err(),
        PoolConfigError::MagazineTooLarge { magazine: 1000, limit: 64 }
    );
    assert_eq!(
        LocalPool::builder(String::new).prefill(3).max_idle(2).build().unwrap_err(),
        PoolConfigError::PrefillTooLarge { prefill: 3, limit: 2 }
    );
}

#[test]
fn guards_outlive_their_pool() {
    let ledger = Arc::new(Ledger::default());
    let pool = ledger.pool().build().unwrap();
    let guards: Vec<_> = (0..10).map(|_| pool.acquire()).collect();
    drop(pool.acquire());
    drop(pool);
    assert_eq!(ledger.live(), 10, "the idle one is gone");
    let mut guards = guards.into_iter();
    let here = guards.next();
    thread::spawn(move || drop(guards)).join().unwrap();
    assert_eq!(here.as_ref().map(|object| object.uses), Some(0));
    drop(here);
    assert_eq!(ledger.live(), 0);
    assert_eq!(Arc::strong_count(&ledger), 1, "the pool's factory is gone as well");
}

#[test]
fn dropping_a_pool_drops_what_lies_in_the_magazines_of_living_threads() {
    let ledger = Arc::new(Ledger::default());
    let pool = Arc::new(ledger.pool().build().unwrap());
    let (filled, dropped) = (Arc::new(Barrier::new(5)), Arc::new(Barrier::new(5)));
    let threads = [(); 4].map(|()| {
        let (pool, filled, dropped) = (pool.clone(), filled.clone(), dropped.clone());
        thread::spawn(move || {
            drop([(); 5].map(|()| pool.acquire()));
            drop(pool);
            filled.wait();
            dropped.wait();
        })
    });
    filled.wait();
    assert!(pool.stats().idle >= 5);
    drop(Arc::into_inner(pool).expect("the threads dropped theirs"));
    assert_eq!(ledger.live(), 0);
    dropped.wait();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(Arc::strong_count(&ledger), 1);
}

#[test]
fn a_thread_that_ends_leaves_its_objects_to_the_others() {
    let ledger = Arc::new(Ledger::default());
    let pool = ledger.pool().build().unwrap();
    thread::scope(|scope| {
        // Joined by hand: a scope waits for a thread's work, not for its destructors.
        scope.spawn(|| drop([(); 20].map(|()| pool.acquire()))).join().unwrap();
    });
    assert_eq!(pool.stats().idle, 20);
    let again: Vec<_> = (0..20).map(|_| pool.acquire()).collect();
    assert_eq!((again.len(), pool.stats().created), (20, 20), "acquire() found them in the stock");
}

#[test]
fn objects_in_another_threads_magazine_are_found_by_who_never_creates() {
    let pool = ObjectPool::new(|| 0_u64);
    let (filled, done) = (Barrier::new(2), Barrier::new(2));
    thread::scope(|scope| {
        scope.spawn(|| {
            drop([(); 5].map(|()| pool.acquire()));
            filled.wait();
            done.wait();
        });
        filled.wait();
        let found: Vec<_> = std::iter::from_fn(|| pool.try_acquire()).collect();
        assert_eq!(found.len(), 5);
        done.wait();
    });
}

#[test]
fn several_pools_in_several_threads_keep_their_objects_apart() {
    let pools: Vec<_> = (0..20_usize).map(|number| ObjectPool::new(move || number)).collect();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for round in 0..500 {
                    let guards: Vec<_> = pools.iter().skip(round % 3).map(ObjectPool::acquire).collect();
                    for (number, guard) in guards.iter().enumerate() {
                        assert_eq!(**guard, number + round % 3);
                    }
                }
            });
        }
    });
    // New pools in the places of old ones, whose entries are still in this thread's table.
    drop(pools);
    for number in 100..200_usize {
        let pool = ObjectPool::new(move || number);
        drop([pool.acquire(), pool.acquire()]);
        assert_eq!(*pool.acquire(), number);
    }
}

#[test]
fn pools_work_in_the_destructors_of_thread_locals() {
    struct Late(Arc<ObjectPool<Object>>, Option<Pooled<Object>>);
    impl Drop for Late {
        fn drop(&mut self) {
            drop(self.1.take());
            drop([self.0.acquire(), self.0.acquire()]);
        }
    }
    thread_local! {
        static FIRST: RefCell<Option<Late>> = const { RefCell::new(None) };
        static LAST: RefCell<Option<Late>> = const { RefCell::new(None) };
    }
    let ledger = Arc::new(Ledger::default());
    let pool = Arc::new(ledger.pool().build().unwrap());
    let inside = pool.clone();
    thread::spawn(move || {
        // One is destroyed before the pool's own thread-local, one after it, in whatever order the platform has.
        FIRST.set(Some(Late(inside.clone(), None)));
        let guard = inside.acquire();
        LAST.set(Some(Late(inside.clone(), Some(guard))));
        FIRST.with_borrow_mut(|late| late.as_mut().unwrap().1 = Some(inside.acquire()));
    })
    .join()
    .unwrap();
    let stats = pool.stats();
    assert_eq!((stats.in_use, stats.idle), (0, ledger.live()));
    // All came to the stock, none to a magazine that the thread had given back already.
    drop((0..stats.idle).map(|_| pool.acquire()).collect::<Vec<_>>());
    assert_eq!(pool.stats().created, stats.created);
    drop(Arc::into_inner(pool));
    assert_eq!(ledger.live(), 0);
}

#[test]
fn a_panic_in_the_factory_creates_nothing() {
    let ledger = Arc::new(Ledger::default());
    let pool = ledger.pool().max_total(1).build().unwrap();
    for _ in 0..3 {
        ledger.in_factory.store(true, Ordering::SeqCst);
        assert!(panics(|| drop(pool.acquire())));
        assert_eq!((pool.stats().created, pool.stats().in_use), (0, 0));
    }
    assert!(pool.acquire_timeout(LONG).is_ok(), "the place was not used up");
    // While it is filled at the start.
    ledger.in_factory.store(true, Ordering::SeqCst);
    assert!(panics(|| drop(ledger.pool().prefill(3).build())));
    drop(pool);
    assert_eq!(ledger.live(), 0);
}

#[test]
fn a_panic_in_the_factory_of_one_that_waited_lets_the_next_one_create() {
    let ledger = Arc::new(Ledger::default());
    let pool = ledger.pool().max_total(1).build().unwrap();
    let only = pool.acquire();
    thread::scope(|scope| {
        let waiters = [(); 2].map(|()| scope.spawn(|| panics(|| drop(pool.acquire()))));
        // Whether both wait by now or come later makes no difference to what is checked.
        ledger.in_factory.store(true, Ordering::SeqCst);
        drop(Pooled::detach(only));
        let panicked = waiters.into_iter().filter_map(|waiter| waiter.join().unwrap().then_some(())).count();
        assert_eq!(panicked, 1, "one met the panic, the other got an object");
    });
    drop(pool);
    assert_eq!(ledger.live(), 0);
}

#[test]
fn a_panic_in_the_reset_drops_the_object() {
    let ledger = Arc::new(Ledger::default());
    let pool = ledger.pool().max_total(1).build().unwrap();
    let object = pool.acquire();
    ledger.in_reset.store(true, Ordering::SeqCst);
    assert!(panics(|| drop(object)));
    assert_eq!(ledger.live(), 0);
    let stats = pool.stats();
    assert_eq!((stats.dropped, stats.idle, stats.in_use), (1, 0, 0));
    assert!(pool.acquire_timeout(LONG).is_ok(), "its place was given up");
    ledger.in_reset.store(true, Ordering::SeqCst);
    let foreign = ledger.object();
    assert!(panics(|| drop(pool.release(foreign))));
    assert_sum(pool.stats());
    drop(pool);
    assert_eq!(ledger.live(), 0);
}

#[test]
fn a_panic_in_user_code_returns_the_object() {
    let ledger = Arc::new(Ledger::default());
    let pool = ledger.pool().build().unwrap();
    assert!(panics(|| {
        let _first = pool.acquire();
        let _second = pool.acquire();
        panic!("in the user's code, as the test wants it");
    }));
    assert_eq!((pool.stats().idle, ledger.live()), (2, 2));
    assert_eq!(pool.acquire().uses, 1, "it was reset");
}

#[test]
fn a_panic_in_a_drop_loses_no_other_object() {
    let ledger = Arc::new(Ledger::default());
    let pool = ledger.pool().max_idle(0).build().unwrap();
    let object = pool.acquire();
    ledger.in_drop.store(true, Ordering::SeqCst);
    assert!(panics(|| drop(object)));
    assert_eq!((pool.stats().dropped, pool.stats().in_use), (1, 0));
    let object = pool.acquire();
    ledger.in_drop.store(true, Ordering::SeqCst);
    assert!(panics(|| drop(Pooled::detach(object))));
    assert_sum(pool.stats());
    drop(pool);

    let pool = ledger.pool().prefill(100).build().unwrap();
    ledger.in_drop.store(true, Ordering::SeqCst);
    assert!(panics(|| drop(pool)));
    assert_eq!(ledger.live(), 0, "the other 99 were dropped all the same");
    assert_eq!(Arc::strong_count(&ledger), 1);
}

/// Every place at which user's code runs, in one program, with a panic at each of its first calls in turn.
#[test]
fn panics_at_every_point_lose_and_double_nothing() {
    type Flag = fn(&Ledger) -> &AtomicBool;
    let flags: [Flag; 3] = [|ledger| &ledger.in_factory, |ledger| &ledger.in_reset, |ledger| &ledger.in_drop];
    for flag in flags {
        for step in 0..8 {
            let ledger = Arc::new(Ledger::default());
            let pool = ledger.pool().max_idle(2).max_total(5).build().unwrap();
            let mut held = Vec::new();
            let mut panicked = 0;
            for now in 0..8 {
                flag(&ledger).store(now == step, Ordering::SeqCst);
                panicked += usize::from(panics(|| match now {
                    0..=2 | 5 => held.push(pool.acquire()),
                    3 | 6 => drop(held.pop()),
                    4 => drop(held.pop().map(Pooled::detach)),
                    _ => held.clear(),
                }));
            }
            flag(&ledger).store(false, Ordering::SeqCst);
            assert!(panicked <= 1);
            held.clear();
            let stats = pool.stats();
            assert_sum(stats);
            assert_eq!((stats.in_use, stats.idle), (0, ledger.live()), "step {step}");
            assert!(stats.idle <= 2 && stats.high_water <= 5);
            drop(pool);
            assert_eq!(ledger.live(), 0);
        }
    }
}

#[test]
fn a_bounded_pool_makes_who_comes_last_wait() {
    let ledger = Arc::new(Ledger::default());
    let pool = ledger.pool().max_total(2).build().unwrap();
    let first = pool.acquire();
    let second = pool.acquire();
    assert!(pool.try_acquire().is_none());
    assert!(pool.acquire_timeout(Duration::ZERO).is_err());
    assert!(pool.acquire_timeout(Duration::from_millis(5)).is_err());
    thread::scope(|scope| {
        let waiter = scope.spawn(|| pool.acquire_timeout(LONG).map(|object| object.uses));
        drop(first);
        assert_eq!(waiter.join().unwrap(), Ok(1), "the one that was returned, after its reset");
    });
    drop(second);
    assert_eq!(ledger.made.load(Ordering::SeqCst), 2);
    assert!(pool.acquire_timeout(Duration::MAX).is_ok(), "a deadline beyond the clock is none");
}

#[test]
fn a_thread_that_waits_is_woken_for_its_turn() {
    let waits: [fn(&ObjectPool<u8>) -> bool; 2] =
        [|pool| *pool.acquire() == 7, |pool| pool.acquire_timeout(LONG).is_ok_and(|object| *object == 7)];
    for wait in waits {
        let pool = ObjectPool::builder(|| 7).max_total(1).build().unwrap();
        let mut only = pool.acquire();
        thread::scope(|scope| {
            let waiter = scope.spawn(|| wait(&pool));
            let context = &mut Context::from_waker(Waker::noop());
            // Until the thread is in the queue before this future.
            loop {
                let mut behind = pin!(pool.acquire_async());
                assert!(behind.as_mut().poll(context).is_pending());
                drop(only);
                match behind.poll(context) {
                    Poll::Ready(guard) if !waiter.is_finished() => only = guard,
                    _ => break,
                }
                thread::yield_now();
            }
            assert!(waiter.join().unwrap());
        });
    }
}

/// Everybody's objects lie in somebody's magazine, again and again; nobody may starve.
#[test]
fn a_storm_on_a_bounded_pool_never_exceeds_it_and_ends() {
    const THREADS: usize = 6;
    let limits = [(1, 1), (2, 2), (1, 3), (0, 3), (3, 3), (5, 8), (100, 100)];
    // A detached object is the program's, so with them there may be more.
    for ((max_idle, max_total), detaches) in limits.into_iter().flat_map(|limit| [(limit, false), (limit, true)]) {
        let ledger = Arc::new(Ledger::default());
        let pool = ledger.pool().max_idle(max_idle).max_total(max_total).build().unwrap();
        let start = Barrier::new(THREADS);
        thread::scope(|scope| {
            for number in 0..THREADS {
                let (pool, ledger, start) = (&pool, &ledger, &start);
                scope.spawn(move || {
                    start.wait();
                    for round in 0..2000 {
                        let guard = match (round + number) % 5 {
                            0 => pool.try_acquire(),
                            1 => pool.acquire_timeout(Duration::from_micros(50)).ok(),
                            _ => Some(pool.acquire()),
                        };
                        assert!(detaches || ledger.live() <= max_total);
                        match (guard, (round * 7 + number) % 31) {
                            (Some(guard), 0) if detaches => drop(Pooled::detach(guard)),
                            (guard, _) => drop(guard),
                        }
                    }
                });
            }
        });
        let stats = pool.stats();
        assert_sum(stats);
        assert!(stats.idle <= max_idle && stats.high_water <= max_total, "{stats}");
        assert_eq!((stats.in_use, stats.idle), (0, ledger.live()));
        drop(pool);
        assert_eq!(ledger.live(), 0);
    }
}

/// Threads that start and end, release each other's objects, and drop the pool at any moment.
#[test]
fn a_storm_of_threads_drops_every_object_once() {
    for round in 0..50 {
        let ledger = Arc::new(Ledger::default());
        let pool = Arc::new(ledger.pool().max_idle(50).build().unwrap());
        let (send, receive) = mpsc::channel::<Pooled<Object>>();
        let makers = [(); 3].map(|()| {
            let (pool, send) = (pool.clone(), send.clone());
            thread::spawn(move || {
                for _ in 0..100 {
                    drop([(); 3].map(|()| pool.acquire()));
                    // The receiver may be gone; then the object comes back here.
                    drop(send.send(pool.acquire()));
                }
            })
        });
        drop((send, pool));
        let releaser = thread::spawn(move || receive.into_iter().take(10 * round).for_each(drop));
        makers.into_iter().for_each(|maker| maker.join().unwrap());
        releaser.join().unwrap();
        assert_eq!(ledger.live(), 0);
    }
}

#[test]
fn guards_are_held_across_await_and_tasks_wait_in_turn() {
    let ledger = Arc::new(Ledger::default());
    let pool = Arc::new(ledger.pool().max_total(3).build().unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
    runtime.block_on(async {
        let tasks: Vec<_> = (0..50)
            .map(|number| {
                let (pool, ledger) = (pool.clone(), ledger.clone());
                tokio::spawn(async move {
                    for _ in 0..20 {
                        let object = pool.acquire_async().await;
                        tokio::task::yield_now().await;
                        assert!(ledger.live() <= 3);
                        drop(object);
                        if number % 5 == 0 {
                            // Gives up at some point of its wait, or gets an object.
                            let attempt = tokio::time::timeout(Duration::from_micros(20), pool.acquire_async());
                            drop(attempt.await);
                        }
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
    let stats = pool.stats();
    assert_eq!((stats.in_use, stats.idle), (0, ledger.live()));
    assert!(stats.high_water <= 3);
}

#[test]
fn the_futures_queue_is_first_come_first_served_and_closes_up() {
    let pool = ObjectPool::builder(|| 7).max_total(1).build().unwrap();
    let context = &mut Context::from_waker(Waker::noop());
    let only = pool.acquire();
    let (mut first, mut third) = (pin!(pool.acquire_async()), pin!(pool.acquire_async()));
    {
        let mut second = Box::pin(pool.acquire_async());
        assert!(first.as_mut().poll(context).is_pending());
        assert!(second.as_mut().poll(context).is_pending());
        assert!(third.as_mut().poll(context).is_pending());
        // `second` gives up while it waits.
    }
    drop(only);
    assert!(pool.try_acquire().is_none(), "granted to the first");
    assert!(third.as_mut().poll(context).is_pending());
    let Poll::Ready(guard) = first.as_mut().poll(context) else { panic!("granted, but not ready") };
    drop(guard);
    let Poll::Ready(guard) = third.as_mut().poll(context) else { panic!("the queue did not close up") };
    assert_eq!(*guard, 7);
}

/// What runs when a waiter is woken: code of an executor, which may come back to the pool at once.
struct OnWake<F: Fn()>(F);

impl<F: Fn() + Send + Sync> std::task::Wake for OnWake<F> {
    fn wake(self: Arc<Self>) {
        (self.0)();
    }
}

#[test]
fn a_waker_may_use_the_pool() {
    let ledger = Arc::new(Ledger::default());
    let pool = Arc::new(ledger.pool().max_total(1).build().unwrap());
    let (inside, woken) = (pool.clone(), Arc::new(AtomicUsize::new(0)));
    let count = woken.clone();
    let waker = Arc::new(OnWake(move || {
        count.fetch_add(1, Ordering::SeqCst);
        assert!(inside.try_acquire().is_none(), "granted to who is woken");
        assert!(inside.acquire_timeout(Duration::ZERO).is_err());
        assert_eq!(inside.stats().in_use, 1);
    }));
    let waker = waker.into();
    let context = &mut Context::from_waker(&waker);
    let only = pool.acquire();
    let mut waiting = pin!(pool.acquire_async());
    assert!(waiting.as_mut().poll(context).is_pending());
    drop(only);
    let Poll::Ready(guard) = waiting.as_mut().poll(context) else { panic!("woken, but not ready") };
    // The right to create, when the object leaves for good.
    let mut waiting = pin!(pool.acquire_async());
    assert!(waiting.as_mut().poll(context).is_pending());
    drop(Pooled::detach(guard));
    assert!(waiting.as_mut().poll(context).is_ready());
    assert_eq!(woken.load(Ordering::SeqCst), 2);
}

#[test]
fn a_panic_in_a_waker_loses_nothing() {
    let ledger = Arc::new(Ledger::default());
    let pool = ledger.pool().max_total(1).build().unwrap();
    let waker = Arc::new(OnWake(|| panic!("in the waker, as the test wants it"))).into();
    let context = &mut Context::from_waker(&waker);
    for detaches in [false, true] {
        let only = pool.acquire();
        let mut waiting = Box::pin(pool.acquire_async());
        let mut next = pin!(pool.acquire_async());
        assert!(waiting.as_mut().poll(context).is_pending());
        assert!(next.as_mut().poll(context).is_pending());
        assert!(panics(|| if detaches { drop(Pooled::detach(only)) } else { drop(only) }));
        // The one that was woken gives up: the next one has it.
        assert!(panics(|| drop(waiting)));
        assert!(next.as_mut().poll(context).is_ready());
        assert_sum(pool.stats());
        assert_eq!(pool.stats().in_use, 0);
        assert_eq!(ledger.live(), 1);
    }
}

#[test]
fn the_waker_of_the_last_poll_is_called_and_only_once() {
    let pool = ObjectPool::builder(|| 7).max_total(1).build().unwrap();
    let only = pool.acquire();
    let mut waiting = pin!(pool.acquire_async());
    let called: [Arc<AtomicUsize>; 3] = std::array::from_fn(|_| Arc::default());
    for count in &called {
        let count = count.clone();
        let waker = Arc::new(OnWake(move || _ = count.fetch_add(1, Ordering::SeqCst))).into();
        assert!(waiting.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    }
    drop(only);
    assert_eq!(called.each_ref().map(|count| count.load(Ordering::SeqCst)), [0, 0, 1]);
    assert!(called[..2].iter().all(|count| Arc::strong_count(count) == 1), "replaced wakers are dropped");
    let context = &mut Context::from_waker(Waker::noop());
    assert!(waiting.as_mut().poll(context).is_ready());
    // Polled again, it is like a new one.
    assert!(waiting.as_mut().poll(context).is_ready());
}

/// Threads and a thread-local's destructor wait for what others hold.
#[test]
fn a_thread_that_ends_may_wait_in_a_destructor() {
    struct Late(Arc<ObjectPool<Object>>, mpsc::Sender<()>);
    impl Drop for Late {
        fn drop(&mut self) {
            self.1.send(()).unwrap();
            drop(self.0.acquire());
        }
    }
    thread_local! { static LATE: RefCell<Option<Late>> = const { RefCell::new(None) } }
    let ledger = Arc::new(Ledger::default());
    let pool = Arc::new(ledger.pool().max_total(1).build().unwrap());
    let only = pool.acquire();
    let (send, waits) = mpsc::channel();
    let inside = pool.clone();
    let thread = thread::spawn(move || {
        LATE.set(Some(Late(inside.clone(), send)));
        // Met by this thread later than the thread-local above, so gone before it.
        assert!(inside.acquire_timeout(Duration::ZERO).is_err());
    });
    waits.recv().unwrap();
    drop(only);
    thread.join().unwrap();
    assert_eq!((pool.stats().in_use, pool.stats().idle), (0, 1));
}

#[test]
fn guards_and_pools_are_send_and_sync_as_their_objects_are() {
    fn send<T: Send>() {}
    fn sync<T: Sync>() {}
    // A `Cell` is `Send` and not `Sync`; the pool hands each object to one thread at a time.
    send::<ObjectPool<std::cell::Cell<u8>>>();
    sync::<ObjectPool<std::cell::Cell<u8>>>();
    send::<Pooled<std::cell::Cell<u8>>>();
    send::<pymalloc_object_pool::Acquire<'_, std::cell::Cell<u8>>>();
    sync::<Pooled<String>>();
    assert_eq!(size_of::<Option<Pooled<String>>>(), size_of::<usize>());
}

#[test]
fn a_local_pool_holds_what_no_other_thread_could_have() {
    let text = String::from("borrowed by the objects");
    let resets = Rc::new(RefCell::new(0));
    let pool = {
        let resets = resets.clone();
        LocalPool::builder(|| (Rc::new(()), text.as_str()))
            .reset(move |_| *resets.borrow_mut() += 1)
            .max_idle(2)
            .prefill(1)
            .build()
            .unwrap()
    };
    let guards = [pool.acquire(), pool.acquire(), pool.acquire()];
    assert!(pool.try_acquire().is_none());
    let kept = guards[0].0.clone();
    assert_eq!(Rc::strong_count(&kept), 2);
    drop(guards);
    assert_eq!(*resets.borrow(), 3);
    let stats = pool.stats();
    assert_eq!((stats.created, stats.idle, stats.dropped, stats.high_water, stats.in_use), (3, 2, 1, 3, 0));
    assert!(pool.release((Rc::new(()), "")).is_err());
    let late = pool.acquire();
    let (object, _) = pymalloc_object_pool::LocalPooled::detach(pool.acquire());
    assert!(pool.release((object, "")).is_ok());
    assert_eq!(*resets.borrow(), 5, "the two that were released from outside, too");
    let stats = pool.stats();
    assert_eq!((stats.adopted, stats.detached, stats.in_use, stats.high_water), (1, 1, 1, 3));
    assert_eq!(stats.reused, 3, "the one of the start, and the two acquired since");
    assert_sum(stats);
    assert!(pool.try_acquire().is_some());
    drop(pool);
    drop(late);
    assert_eq!(Rc::strong_count(&kept), 1, "every object is gone");
    assert_eq!(Rc::strong_count(&resets), 1, "and so is the reset");
}

#[test]
fn panics_in_a_local_pool_lose_and_double_nothing() {
    let ledger = Arc::new(Ledger::default());
    let (maker, resetter) = (ledger.clone(), ledger.clone());
    let pool = LocalPool::builder(move || maker.object())
        .reset(move |_: &mut Object| Ledger::trip(&resetter.in_reset, "reset"))
        .max_idle(3)
        .build()
        .unwrap();
    ledger.in_factory.store(true, Ordering::SeqCst);
    assert!(panics(|| drop(pool.acquire())));
    assert_eq!(pool.stats().in_use, 0);
    let object = pool.acquire();
    ledger.in_reset.store(true, Ordering::SeqCst);
    assert!(panics(|| drop(object)));
    assert_eq!((ledger.live(), pool.stats().dropped), (0, 1));
    let objects = [(); 5].map(|()| pool.acquire());
    ledger.in_drop.store(true, Ordering::SeqCst);
    assert!(panics(|| drop(objects)));
    assert_eq!((ledger.live(), pool.stats().idle), (3, 3));
    ledger.in_drop.store(true, Ordering::SeqCst);
    assert!(panics(|| drop(pool)));
    assert_eq!(ledger.live(), 0);
}

#[test]
fn pools_guards_and_errors_say_what_they_are() {
    let builder = ObjectPool::builder(|| "seven").max_idle(5).max_total(1);
    assert!(format!("{builder:?}").contains("max_idle: 5"), "{builder:?}");
    let pool = builder.max_idle(1).build().unwrap();
    let guard = pool.acquire();
    assert_eq!((format!("{guard}"), format!("{guard:?}")), ("seven".into(), "\"seven\"".into()));
    let counts = "0 idle, 1 in use, 1 at most; 1 created, 0 reused, 0 adopted, 0 dropped, 0 detached";
    assert_eq!(pool.stats().to_string(), counts);
    assert!(format!("{pool:?}").contains("in_use: 1"), "{pool:?}");
    let mut waiting = pin!(pool.acquire_async());
    assert!(format!("{waiting:?}").contains("waits: false"));
    assert!(waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    assert!(format!("{waiting:?}").contains("waits: true"));
    let timeout = pool.acquire_timeout(Duration::ZERO).unwrap_err();
    assert!(timeout.to_string().contains("in time"), "{timeout}");
    let refused = ObjectPool::builder(|| 7).max_total(0).build().unwrap_err();
    assert!(refused.to_string().contains("max_total"), "{refused}");

    let builder = LocalPool::builder(|| 7).max_idle(5);
    assert!(format!("{builder:?}").contains("max_idle: 5"), "{builder:?}");
    let pool = builder.build().unwrap();
    let guard = pool.acquire();
    assert_eq!((format!("{guard}"), format!("{guard:?}")), ("7".into(), "7".into()));
    assert!(format!("{pool:?}").contains("in_use: 1"), "{pool:?}");
}
