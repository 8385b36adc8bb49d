//! Property tests: programs of operations on a stock, by several owners of magazines, checked against a model that
//! counts.
//!
//! One OS thread plays all owners, so that a failure repeats and shrinks.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};

use quickcheck::{Arbitrary, Gen, QuickCheck};

use crate::magazine::Magazine;
use crate::stock::{Limits, Loss, Stock, Taken};
use crate::waiters::{Grant, Ticket};

/// Number of owners that a program plays.
const OWNERS: usize = 3;

/// One step of a program. A number is taken modulo the number of things it can mean.
#[derive(Clone, Copy, Debug)]
enum Op {
    /// As `acquire` without waiting, `times` times.
    Take { owner: u8, times: u8 },
    /// As `try_acquire`.
    TryTake { owner: u8 },
    /// As `acquire_async`: queues up if it must.
    Wait,
    /// A waiter polls.
    Poll { place: u8 },
    /// A waiter gives up.
    GiveUp { place: u8 },
    /// As dropping a guard, `times` times.
    Put { owner: u8, place: u8, times: u8 },
    /// As `detach`, or a reset that panics.
    Lose { place: u8, dropped: bool },
    /// A factory panics, if something can be created.
    FailToCreate,
    /// As `release`.
    Adopt,
    /// The owner's thread ends.
    End { owner: u8 },
}

impl Arbitrary for Op {
    fn arbitrary(g: &mut Gen) -> Self {
        let (owner, place, times) = (u8::arbitrary(g), u8::arbitrary(g), u8::arbitrary(g));
        match u8::arbitrary(g) % 20 {
            0..=4 => Self::Take { owner, times: times % 24 },
            5..=6 => Self::TryTake { owner },
            7..=8 => Self::Wait,
            9..=10 => Self::Poll { place },
            11 => Self::GiveUp { place },
            12..=15 => Self::Put { owner, place, times: times % 24 },
            16 => Self::Lose { place, dropped: bool::arbitrary(g) },
            17 => Self::FailToCreate,
            18 => Self::Adopt,
            _ => Self::End { owner },
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Bounds {
    max_idle: usize,
    max_total: usize,
    magazine: usize,
}

impl Arbitrary for Bounds {
    fn arbitrary(g: &mut Gen) -> Self {
        let limits = [0, 1, 2, 3, 7, 20, 64, usize::MAX];
        Self {
            max_idle: *g.choose(&limits).expect("not empty"),
            max_total: *g.choose(&limits[1..]).expect("not empty"),
            magazine: *g.choose(&[0, 1, 2, 5, 64]).expect("not empty"),
        }
    }
}

/// An object; a counter counts those that live.
struct Item(Arc<AtomicUsize>);

impl Drop for Item {
    fn drop(&mut self) {
        // Relaxed: one thread.
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A waker that remembers whether it was called.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

struct Waiting {
    ticket: Ticket,
    woken: Arc<Woken>,
    /// Whether the model says that a grant lies under the ticket.
    granted: bool,
}

struct World {
    bounds: Bounds,
    owners: [Option<Arc<Magazine<Item>>>; OWNERS],
    in_use: Vec<Item>,
    /// The waiters, first come first.
    waiting: VecDeque<Waiting>,
    /// Idle objects. (A right to create is never idle.)
    idle: usize,
    /// Objects and rights to create that lie under tickets.
    granted: usize,
    live: Arc<AtomicUsize>,
    created: u64,
    reused: u64,
    // The last field: objects in magazines are dropped with the stock.
    stock: Stock<Item>,
}

impl World {
    fn new(bounds: Bounds) -> Self {
        let Bounds { max_idle, max_total, magazine } = bounds;
        Self {
            bounds,
            owners: [const { None }; OWNERS],
            in_use: Vec::new(),
            waiting: VecDeque::new(),
            idle: 0,
            granted: 0,
            live: Arc::default(),
            created: 0,
            reused: 0,
            stock: Stock::new(Limits { max_idle, max_total, magazine }),
        }
    }

    fn item(&self) -> Item {
        self.live.fetch_add(1, Ordering::Relaxed);
        Item(self.live.clone())
    }

    fn total(&self) -> usize {
        self.idle + self.in_use.len() + self.granted
    }

    fn join(&mut self, owner: u8) -> Option<Arc<Magazine<Item>>> {
        let place = &mut self.owners[usize::from(owner) % OWNERS];
        if place.is_none() {
            *place = self.stock.join();
        }
        place.clone()
    }

    fn redeem(&mut self, grant: Grant<Item>) {
        let item = match grant {
            Grant::Idle(item) => item,
            Grant::Create => {
                self.created += 1;
                self.item()
            }
        };
        self.in_use.push(item);
    }

    fn take(&mut self, owner: u8, create: bool) {
        let magazine = self.join(owner);
        // SAFETY: this thread plays all owners.
        let own = magazine.as_ref().map(|magazine| unsafe { magazine.own() });
        if let Some(item) = own.and_then(|own| own.pop(self.stock.gate())) {
            self.idle -= 1;
            self.reused += 1;
            self.in_use.push(item);
            return;
        }
        let in_stock = self.stock.self_check();
        match self.stock.take(own, create) {
            Taken::Granted(Grant::Idle(item)) => {
                self.idle = self.idle.checked_sub(1).expect("an object was idle");
                self.reused += 1;
                self.in_use.push(item);
            }
            Taken::Granted(Grant::Create) => {
                assert!(create && self.total() < self.bounds.max_total);
                assert_eq!(in_stock, 0, "created though the stock had one");
                self.redeem(Grant::Create);
            }
            Taken::Nothing if create => assert_eq!(self.total(), self.bounds.max_total),
            Taken::Nothing => assert_eq!(self.idle, 0),
        }
    }

    fn wait(&mut self) {
        let woken = Arc::new(Woken::default());
        match self.stock.take_or_wait(Waker::from(woken.clone())) {
            Ok(Grant::Idle(item)) => {
                self.idle = self.idle.checked_sub(1).expect("an object was idle");
                self.reused += 1;
                self.in_use.push(item);
            }
            Ok(Grant::Create) => {
                assert!(self.total() < self.bounds.max_total);
                self.redeem(Grant::Create);
            }
            Err(ticket) => {
                assert_eq!(self.idle, 0, "waits beside an idle object");
                assert_eq!(self.total(), self.bounds.max_total, "waits though one could be created");
                self.waiting.push_back(Waiting { ticket, woken, granted: false });
            }
        }
    }

    /// Something becomes free: the model's first waiter gets it, if there is one.
    fn hand_over(&mut self) -> bool {
        match self.waiting.iter_mut().find(|waiting| !waiting.granted) {
            Some(first) => {
                first.granted = true;
                self.granted += 1;
                true
            }
            None => false,
        }
    }

    fn poll(&mut self, place: u8) {
        if self.waiting.is_empty() {
            return;
        }
        let place = usize::from(place) % self.waiting.len();
        let Waiting { ticket, woken, granted } = &self.waiting[place];
        assert_eq!(woken.0.load(Ordering::Relaxed), usize::from(*granted), "woken if and only if granted");
        match self.stock.poll_ticket(*ticket, Waker::from(woken.clone())) {
            Some(grant) => {
                assert!(*granted);
                self.waiting.remove(place);
                self.granted -= 1;
                self.reused += u64::from(matches!(grant, Grant::Idle(_)));
                self.redeem(grant);
            }
            None => assert!(!granted),
        }
    }

    fn give_up(&mut self, place: u8) {
        if self.waiting.is_empty() {
            return;
        }
        let place = usize::from(place) % self.waiting.len();
        let Waiting { ticket, granted, .. } = self.waiting.remove(place).expect("in range");
        let live = self.live.load(Ordering::Relaxed);
        let dropped = self.stock.give_up(ticket).map(drop).is_some();
        if dropped {
            self.stock.lose(Loss::Dropped);
        }
        if granted {
            self.granted -= 1;
            let handed = self.hand_over();
            // The grant was an object or a right; the stock knows which. An object without a waiter becomes idle, or is
            // dropped if there is no room.
            let idle = self.stock.counts().idle;
            assert!(idle == self.idle || (idle == self.idle + 1 && !handed && !dropped));
            assert!(!dropped || (self.idle == self.bounds.max_idle && !handed));
            self.idle = idle;
        }
        assert_eq!(self.live.load(Ordering::Relaxed), live - usize::from(dropped));
    }

    fn put(&mut self, owner: u8, place: u8) {
        if self.in_use.is_empty() {
            return;
        }
        let mut item = self.in_use.swap_remove(usize::from(place) % self.in_use.len());
        let magazine = self.join(owner);
        // SAFETY: this thread plays all owners.
        let own = magazine.as_ref().map(|magazine| unsafe { magazine.own() });
        if let Some(own) = own {
            match own.push(self.stock.gate(), item) {
                Ok(()) => {
                    assert!(self.waiting.iter().all(|waiting| waiting.granted), "kept, although a thread waits");
                    self.idle += 1;
                    return;
                }
                Err(back) => item = back,
            }
        }
        let refused = self.stock.put(own, item).map(drop).is_some();
        if refused {
            self.stock.lose(Loss::Dropped);
        }
        if self.hand_over() {
            assert!(!refused);
        } else {
            assert_eq!(refused, self.idle == self.bounds.max_idle, "dropped if and only if max_idle are idle");
            self.idle += usize::from(!refused);
        }
    }

    fn run(&mut self, op: Op) {
        match op {
            Op::Take { owner, times } => (0..times).for_each(|_| self.take(owner, true)),
            Op::TryTake { owner } => self.take(owner, false),
            Op::Wait => self.wait(),
            Op::Poll { place } => self.poll(place),
            Op::GiveUp { place } => self.give_up(place),
            Op::Put { owner, place, times } => (0..times).for_each(|_| self.put(owner, place)),
            Op::Lose { place, dropped } => {
                if !self.in_use.is_empty() {
                    drop(self.in_use.swap_remove(usize::from(place) % self.in_use.len()));
                    self.stock.lose(if dropped { Loss::Dropped } else { Loss::Detached });
                    self.hand_over();
                }
            }
            Op::FailToCreate => {
                if self.stock.reserve() {
                    assert!(self.total() < self.bounds.max_total);
                    self.stock.lose(Loss::NotCreated);
                }
            }
            Op::Adopt => {
                let room = self.total() < self.bounds.max_total && self.idle < self.bounds.max_idle;
                let adopted = self.stock.adopt(self.item()).is_ok();
                assert_eq!(adopted, room);
                self.idle += usize::from(adopted);
            }
            Op::End { owner } => {
                if let Some(magazine) = self.owners[usize::from(owner) % OWNERS].take() {
                    // SAFETY: this thread plays all owners.
                    self.stock.leave(magazine.clone(), unsafe { magazine.own() });
                }
            }
        }
        self.check();
    }

    fn check(&self) {
        self.stock.self_check();
        let counts = self.stock.counts();
        assert_eq!(counts.idle, self.idle);
        assert_eq!(counts.total, self.total());
        assert_eq!(counts.reused, self.reused);
        assert!(counts.created >= self.created, "rights that lie under tickets are counted already");
        assert!(counts.high_water >= counts.total && counts.high_water <= self.bounds.max_total);
    }

    /// Drops everything as dropping a pool does, while objects are still in use, and counts the drops.
    fn end(mut self) {
        drop(self.stock.close());
        self.stock.self_check();
        let late = self.in_use.len();
        assert_eq!(self.live.load(Ordering::Relaxed), late, "idle and granted objects are dropped, once");
        for item in self.in_use.drain(..) {
            assert!(self.stock.put(None, item).is_some(), "a closed stock keeps nothing");
            self.stock.lose(Loss::Dropped);
        }
        assert_eq!(self.live.load(Ordering::Relaxed), 0);
        assert_eq!((self.stock.counts().idle, self.stock.counts().total), (0, 0));
    }
}

#[test]
fn programs_leave_the_stock_as_the_model_says() {
    fn holds(bounds: Bounds, ops: Vec<Op>) {
        let mut world = World::new(bounds);
        ops.into_iter().for_each(|op| world.run(op));
        world.end();
    }
    let usual = if cfg!(miri) { 20 } else { 2_000 };
    let programs = std::env::var("PYMALLOC_PROGRAMS").ok().and_then(|number| number.parse().ok()).unwrap_or(usual);
    QuickCheck::new().tests(programs).max_tests(programs).quickcheck(holds as fn(Bounds, Vec<Op>));
}
