//! Loom models of object pools: owners at their magazines while others stop them, and waiters.
//!
//! `magazine.rs`, `stock/` and `waiters.rs` are the product's own source, against a twin of `sync.rs` made of loom's
//! types. An object holds a cell that its holder writes, so loom fails a model in which two threads hold one object, or
//! an object is passed on without an order.
//!
//! ```text
//! RUSTFLAGS="--cfg pymalloc_loom" cargo test --release -p pymalloc-object-pool --test loom --target-dir target/loom
//! ```
//! How to read a model: `tests/loom.rs` of the allocator; what stands for what: `docs/loom.md`.
#![cfg(pymalloc_loom)]

#[path = "../../tests/loom/check.rs"]
mod check;
#[path = "../src/magazine.rs"]
mod magazine;
#[allow(dead_code, reason = "no model needs all of it")]
#[path = "../src/stock/mod.rs"]
mod stock;
#[path = "loom/sync.rs"]
mod sync;
#[path = "../src/waiters.rs"]
mod waiters;

use std::sync::Arc;
use std::task::{Wake, Waker};

use loom::cell::UnsafeCell;
use loom::thread::{self, JoinHandle, Thread};

use check::{check, check_bounded};
use magazine::Magazine;
use stock::{Limits, Loss, Stock, Taken};
use waiters::Grant;

#[derive(Debug)]
struct Object(UnsafeCell<u32>);

// SAFETY: loom's cell is as `core`'s.
unsafe impl Send for Object {}

impl Object {
    fn new() -> Self {
        Self(UnsafeCell::new(0))
    }

    /// What a holder does.
    fn used(self) -> Self {
        // SAFETY: loom checks it.
        self.0.with_mut(|uses| unsafe { *uses += 1 });
        self
    }
}

fn new_stock(max_idle: usize, max_total: usize) -> Arc<Stock<Object>> {
    Arc::new(Stock::new(Limits { max_idle, max_total, magazine: 2 }))
}

/// A thread's side of a pool: as `objects.rs` does it.
struct User {
    stock: Arc<Stock<Object>>,
    magazine: Arc<Magazine<Object>>,
}

impl User {
    fn new(stock: &Arc<Stock<Object>>) -> Self {
        Self { stock: stock.clone(), magazine: stock.join().expect("open") }
    }

    fn take(&self, create: bool) -> Option<Object> {
        // SAFETY: each model uses a user in one thread.
        let own = unsafe { self.magazine.own() };
        own.pop(self.stock.gate()).or_else(|| match self.stock.take(Some(own), create) {
            Taken::Granted(grant) => Some(redeem(grant)),
            Taken::Nothing => None,
        })
    }

    fn wait(&self) -> Object {
        self.take(true).unwrap_or_else(|| match self.stock.take_or_wait(waker()) {
            Ok(grant) => redeem(grant),
            Err(ticket) => loop {
                if let Some(grant) = self.stock.poll_ticket(ticket, waker()) {
                    break redeem(grant);
                }
                thread::park();
            },
        })
    }

    /// Whether the object was kept, or handed to somebody.
    fn put(&self, object: Object) -> bool {
        // SAFETY: each model uses a user in one thread.
        let own = unsafe { self.magazine.own() };
        match own.push(self.stock.gate(), object.used()) {
            Ok(()) => true,
            Err(object) => match self.stock.put(Some(own), object) {
                None => true,
                Some(object) => {
                    drop(object.used());
                    self.stock.lose(Loss::Dropped);
                    false
                }
            },
        }
    }

    fn leave(self) {
        // SAFETY: each model uses a user in one thread.
        self.stock.leave(self.magazine.clone(), unsafe { self.magazine.own() });
    }
}

fn redeem(grant: Grant<Object>) -> Object {
    match grant {
        Grant::Idle(object) => object.used(),
        Grant::Create => Object::new(),
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn waker() -> Waker {
    Arc::new(Unpark(thread::current())).into()
}

/// A stock, and a user whose magazine holds one object and has a place left.
fn one_in_a_magazine(max_total: usize) -> (Arc<Stock<Object>>, User) {
    let stock = new_stock(usize::MAX, max_total);
    let user = User::new(&stock);
    let object = user.take(true).expect("may be created");
    assert!(user.put(object));
    assert_eq!(user.magazine.count(), 1);
    (stock, user)
}

/// A stock of one object, which is in use, and a user whose magazine has a place for it.
fn one_in_use() -> (Arc<Stock<Object>>, User, Object) {
    let (stock, user) = one_in_a_magazine(1);
    let object = user.take(false).expect("put there");
    (stock, user, object)
}

/// A thread that waits for an object, and returns it.
fn spawn_waiter(stock: &Arc<Stock<Object>>) -> JoinHandle<()> {
    let waiter = User::new(stock);
    thread::spawn(move || assert!(waiter.put(waiter.wait())))
}

/// When the threads have ended, the only object is idle.
fn assert_one_idle(stock: &Stock<Object>, threads: impl IntoIterator<Item = JoinHandle<()>>) {
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    stock.self_check();
    assert_eq!(stock.counts().idle, 1);
}

#[test]
fn an_owner_and_who_stops_it_never_get_the_same_object() {
    check(|| {
        let (stock, owner) = one_in_a_magazine(1);
        let thief = User::new(&stock);
        let thread = thread::spawn(move || thief.take(false).is_some_and(|object| thief.put(object)));
        let here = owner.take(false).is_some_and(|object| owner.put(object));
        let there = thread.join().unwrap();
        assert!(here || there, "each found nothing, and nobody had it");
        stock.self_check();
        assert_eq!(stock.counts().idle, 1);
    });
}

/// What was returned before, in the order of events, is found, whosever magazine it lies in.
#[test]
fn who_never_creates_finds_what_lies_in_another_threads_magazine() {
    check(|| {
        let (stock, owner) = one_in_a_magazine(2);
        let other = User::new(&stock);
        let thread = thread::spawn(move || other.take(false).is_some());
        // Comes and goes in its own magazine, but is never in use for long: the thief may see it or not.
        let object = owner.take(true).expect("one at least may be created");
        assert!(owner.put(object));
        let there = thread.join().unwrap();
        stock.self_check();
        let counts = stock.counts();
        assert_eq!(counts.idle + usize::from(there), counts.total);
        let last = User::new(&stock).take(false);
        assert_eq!(last.is_some(), counts.idle > 0);
    });
}

#[test]
fn an_object_that_returns_while_its_pool_is_dropped_is_dropped_once() {
    check(|| {
        let (stock, owner) = one_in_a_magazine(2);
        let object = owner.take(false).expect("put there");
        let thread = thread::spawn(move || owner.put(object));
        drop(stock.close());
        let kept = thread.join().unwrap();
        stock.self_check();
        let counts = stock.counts();
        // Kept means: in the magazine, before the pool was closed, which then dropped it.
        assert_eq!((counts.idle, counts.total, counts.dropped), (0, 0, 1), "kept: {kept}");
    });
}

#[test]
fn who_waits_is_woken_by_an_object_that_returns_to_a_magazine() {
    check_bounded(3, || {
        let (stock, owner, object) = one_in_use();
        let thread = spawn_waiter(&stock);
        assert!(owner.put(object));
        assert_one_idle(&stock, [thread]);
    });
}

#[test]
fn two_that_wait_for_one_object_both_get_it() {
    check_bounded(2, || {
        let (stock, owner) = one_in_a_magazine(1);
        let threads = [(); 2].map(|()| spawn_waiter(&stock));
        assert!(owner.put(owner.wait()));
        assert_one_idle(&stock, threads);
    });
}

/// The one that gives up may have been granted the object a moment ago.
#[test]
fn what_was_granted_to_who_gives_up_goes_to_the_next() {
    check_bounded(3, || {
        let (stock, owner, object) = one_in_use();
        let impatient = stock.take_or_wait(waker()).expect_err("the only object is in use");
        let patient = spawn_waiter(&stock);
        let giver = {
            let stock = stock.clone();
            thread::spawn(move || assert!(stock.give_up(impatient).is_none(), "dropped, though there is room"))
        };
        assert!(owner.put(object));
        assert_one_idle(&stock, [giver, patient]);
    });
}

#[test]
fn an_object_that_is_lost_lets_who_waits_create_another() {
    check(|| {
        let (stock, _owner, object) = one_in_use();
        let thread = spawn_waiter(&stock);
        drop(object.used());
        stock.lose(Loss::Detached);
        thread.join().unwrap();
        stock.self_check();
        let counts = stock.counts();
        assert_eq!((counts.idle, counts.total, counts.created), (1, 1, 2));
    });
}

#[test]
fn a_thread_that_ends_while_another_stops_it_leaves_every_object() {
    check(|| {
        let (stock, owner) = one_in_a_magazine(1);
        let other = User::new(&stock);
        let thread = thread::spawn(move || owner.leave());
        assert!(other.take(false).is_some_and(|object| other.put(object)), "it lay in a magazine or in the stock");
        assert_one_idle(&stock, [thread]);
    });
}

/// The only two objects come back to two threads, while the place for one of them is reserved for a third.
#[test]
fn no_object_is_dropped_for_a_place_that_is_reserved_and_empty() {
    check_bounded(2, || {
        let stock = new_stock(2, 2);
        let third = User::new(&stock);
        let object = third.take(true).expect("may be created");
        assert!(third.put(object));
        let objects = [(); 2].map(|()| third.take(true).expect("idle, or may be created"));
        assert_eq!(third.magazine.slack(), 1);
        let threads = objects.map(|object| {
            let user = User::new(&stock);
            thread::spawn(move || user.put(object))
        });
        let here = third.take(false).is_none_or(|object| third.put(object));
        assert!(threads.into_iter().fold(here, |all, thread| all & thread.join().unwrap()));
        stock.self_check();
        assert_eq!(stock.counts().idle, 2);
    });
}

#[test]
fn who_only_looks_does_not_let_objects_past_who_waits() {
    check(|| {
        let (stock, owner, object) = one_in_use();
        let thread = spawn_waiter(&stock);
        assert!(matches!(stock.take(None, false), Taken::Nothing));
        assert!(owner.put(object));
        assert_one_idle(&stock, [thread]);
    });
}

/// With the gate shut and opened again between an owner's two visits, or during one.
#[test]
fn an_owner_that_slept_through_a_stop_sees_its_magazine_empty() {
    check(|| {
        let (stock, owner) = one_in_a_magazine(2);
        let other = stock.clone();
        let thread = thread::spawn(move || {
            let Taken::Granted(Grant::Idle(object)) = other.take(None, false) else { return false };
            // Opens the gate (a single quiet call suffices here).
            other.put(None, object.used()).is_none()
        });
        let object = owner.take(true).expect("idle, or created");
        assert!(owner.put(object));
        thread.join().unwrap();
        stock.self_check();
        let counts = stock.counts();
        assert_eq!(counts.idle, counts.total);
    });
}

/// At each moment there is a place free, but not always in the same magazine.
///
/// The spawned thread is the one that returns an object; the other way round, loom's search leaves out the executions
/// that matter.
#[test]
fn no_object_is_dropped_for_a_place_that_moves_between_magazines() {
    check(|| {
        let stock = new_stock(3, usize::MAX);
        let (first, second) = (User::new(&stock), User::new(&stock));
        let [one, two, three, four] = [(); 4].map(|()| first.take(true).expect("may be created"));
        assert!(first.put(one) && second.put(two) && stock.put(None, three.used()).is_none());
        let two = second.take(false).expect("put there");
        assert_eq!((first.magazine.slack(), second.magazine.slack()), (0, 1));
        let other = stock.clone();
        let thread = thread::spawn(move || other.put(None, four.used()).is_none());
        let one = first.take(false).expect("nobody else takes");
        assert!(second.put(two));
        assert!(thread.join().unwrap(), "dropped, though only two others were idle at any time");
        drop(one);
        stock.self_check();
    });
}
