//! The shared stock of an object pool: idle objects under a lock, the list of the threads' magazines (Bonwick and
//! Adams, "Magazines and vmem", 2001), the limits, and the waiters.
//!
//! A stock moves objects and counts them. It never creates, resets or drops one, and runs none of the user's code under
//! its lock; its callers do these things (`objects.rs`).
//!
//! # Invariants
//! *idle bound*: objects in the stock + capacities of all magazines ≤ `max_idle`. A magazine's capacity is reserved
//! from the stock's room, so at any time at most `max_idle` objects are idle, wherever they lie.
//!
//! *exact drop*: a returned object is refused only if `max_idle` objects are idle at that moment. If capacities are
//! reserved, the owners are stopped and the reservations are taken back first.
//!
//! *total bound*: objects idle, in use, granted or being created = `total` ≤ `max_total`.
//!
//! *no idle wait*: while a thread waits, the gate is shut, nothing is idle, and `total` = `max_total`. So everything
//! that becomes free passes the lock, and goes to the first waiter.

mod moves;

use std::sync::{Arc, PoisonError};
use std::task::Waker;

use super::magazine::{Gate, Magazine, Own};
use super::sync::{MAGAZINE_MAX, Mutex, MutexGuard, fences_work};
use super::waiters::{Grant, Ticket, Waiters};

/// The limits of a pool.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Most idle objects, those in magazines included.
    pub(super) max_idle: usize,
    /// Most objects, idle and in use.
    pub(super) max_total: usize,
    /// Most objects in a thread's magazine; 0 for no magazines.
    pub(super) magazine: usize,
}

/// How the pool lost an object, or the right to create one.
#[derive(Clone, Copy, Debug)]
pub(super) enum Loss {
    /// It was never created: the factory panicked, or the thread that waited for it gave up.
    NotCreated,
    /// The user took it out.
    Detached,
    /// It was dropped: there was no room for it, or its reset panicked. It is counted after the drop, because it exists
    /// until then.
    Dropped,
}

/// Counts of a stock at one moment.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Counts {
    pub(super) created: u64,
    pub(super) adopted: u64,
    pub(super) reused: u64,
    pub(super) dropped: u64,
    pub(super) detached: u64,
    pub(super) idle: usize,
    pub(super) total: usize,
    pub(super) high_water: usize,
}

/// See the module.
pub(super) struct Stock<I> {
    gate: Gate,
    limits: Limits,
    /// Whether there are magazines; if not, the gate never opens.
    has_magazines: bool,
    /// Aligned so that a thread that takes the lock does not slow down a thread that only looks at the gate.
    state: Apart<Mutex<State<I>>>,
}

#[repr(align(128))]
struct Apart<V>(V);

struct State<I> {
    idle: Vec<I>,
    /// All magazines ever made: as many as the most threads that used the pool at one time.
    magazines: Vec<Arc<Magazine<I>>>,
    /// The magazines whose threads ended.
    vacant: Vec<Arc<Magazine<I>>>,
    /// Sum of the magazines' capacities.
    reserved: usize,
    waiters: Waiters<I>,
    /// Whether the gate is shut.
    shut: bool,
    /// Slow calls since the gate was shut, or since a thread last waited.
    quiet: u32,
    /// The pool was dropped; what comes back now is dropped too.
    closed: bool,
    /// The counts, except that `idle` and the magazines' share of `reused` are filled in on request.
    counts: Counts,
}

/// The result for a caller that does not wait.
#[derive(Debug)]
pub(super) enum Taken<I> {
    Granted(Grant<I>),
    /// Nothing is idle, and no object may be created.
    Nothing,
}

/// Where a returned object went.
enum Placed<I> {
    Kept,
    /// To a waiter; its waker must be called outside of the lock.
    Handed(Waker),
    /// Nowhere: `max_idle` objects are idle.
    Refused(I),
}

/// What a closed stock still held. It must be dropped outside of the lock: drops are the user's code.
pub(super) struct Rest<I> {
    _idle: Vec<I>,
    _waiters: Waiters<I>,
}

impl<I> Stock<I> {
    pub(super) fn new(limits: Limits) -> Self {
        let has_magazines = limits.magazine > 0 && limits.max_idle > 1 && fences_work();
        let state = State {
            idle: Vec::new(),
            magazines: Vec::new(),
            vacant: Vec::new(),
            reserved: 0,
            waiters: Waiters::new(),
            shut: !has_magazines,
            quiet: 0,
            closed: false,
            counts: Counts::default(),
        };
        let limits = Limits { magazine: limits.magazine.min(MAGAZINE_MAX), ..limits };
        Self { gate: Gate::new(has_magazines), limits, has_magazines, state: Apart(Mutex::new(state)) }
    }

    pub(super) fn gate(&self) -> &Gate {
        &self.gate
    }

    fn lock(&self) -> MutexGuard<'_, State<I>> {
        // None of the user's code runs under the lock. Only an allocation can panic there, before anything is moved.
        self.state.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an idle object, or, if `create` is set, the right to create one.
    pub(super) fn take(&self, own: Option<Own<'_, I>>, create: bool) -> Taken<I> {
        let mut state = self.lock();
        self.reopen_in_time(&mut state);
        self.take_locked(&mut state, own, create)
    }

    /// Takes the right to create an object, even if others are idle.
    pub(super) fn reserve(&self) -> bool {
        self.reserve_locked(&mut self.lock())
    }

    /// Takes an object or the right to create one, or joins the queue.
    pub(super) fn take_or_wait(&self, waker: Waker) -> Result<Grant<I>, Ticket> {
        let mut state = self.lock();
        match self.take_locked(&mut state, None, true) {
            Taken::Granted(grant) => Ok(grant),
            Taken::Nothing => {
                // Magazines that looked empty are stopped, too: from now on, every returned object must pass the lock.
                self.stop(&mut state);
                match state.idle.pop() {
                    Some(item) => {
                        state.counts.reused += 1;
                        Ok(Grant::Idle(item))
                    }
                    None => Err(state.waiters.join(waker)),
                }
            }
        }
    }

    /// Takes what was granted to the ticket. If that is nothing so far, `waker` is called when there is a grant.
    pub(super) fn poll_ticket(&self, ticket: Ticket, waker: Waker) -> Option<Grant<I>> {
        let mut state = self.lock();
        let grant = state.waiters.collect(ticket);
        let unused = if grant.is_some() { Some(waker) } else { state.waiters.replace_waker(ticket, waker) };
        state.counts.reused += u64::from(matches!(grant, Some(Grant::Idle(_))));
        drop(state);
        drop(unused);
        grant
    }

    /// Gives up a ticket. What was granted to it goes to the next waiter or to the stock. If there is no room for an
    /// object, it is returned, as by [`put`](Self::put).
    pub(super) fn give_up(&self, ticket: Ticket) -> Option<I> {
        let mut state = self.lock();
        let grant = state.waiters.collect(ticket);
        let waker = state.waiters.leave(ticket);
        drop(state);
        drop(waker);
        match grant {
            Some(Grant::Idle(item)) => self.put(None, item),
            Some(Grant::Create) => {
                self.lose(Loss::NotCreated);
                None
            }
            None => None,
        }
    }

    /// Takes back an object of the pool. If there is no room for it, it is returned; the caller drops it and then calls
    /// [`lose`](Self::lose).
    pub(super) fn put(&self, own: Option<Own<'_, I>>, item: I) -> Option<I> {
        let mut state = self.lock();
        self.reopen_in_time(&mut state);
        match self.place(&mut state, own, item) {
            Placed::Kept => None,
            Placed::Handed(waker) => {
                drop(state);
                waker.wake();
                None
            }
            Placed::Refused(item) => Some(item),
        }
    }

    /// Takes an object from outside, if there is room for it; otherwise returns it.
    pub(super) fn adopt(&self, item: I) -> Result<(), I> {
        let mut state = self.lock();
        if state.counts.total >= self.limits.max_total {
            return Err(item);
        }
        match self.place(&mut state, None, item) {
            Placed::Kept => {}
            Placed::Refused(item) => return Err(item),
            Placed::Handed(_) => unreachable!("somebody waits below `max_total`"),
        }
        state.counts.adopted += 1;
        state.counts.grow();
        Ok(())
    }

    /// Counts a loss, and passes the right to create another one to the first waiter.
    pub(super) fn lose(&self, loss: Loss) {
        let mut state = self.lock();
        match loss {
            Loss::NotCreated => state.counts.created -= 1,
            Loss::Detached => state.counts.detached += 1,
            Loss::Dropped => state.counts.dropped += 1,
        }
        match state.waiters.grant(Grant::Create) {
            Ok(waker) => {
                state.counts.created += 1;
                drop(state);
                waker.wake();
            }
            Err(_) => state.counts.total -= 1,
        }
    }

    /// Gives a magazine to a thread that has none; `None` if this pool has no magazines, or is closed.
    pub(super) fn join(&self) -> Option<Arc<Magazine<I>>> {
        if !self.has_magazines {
            return None;
        }
        let mut state = self.lock();
        if state.closed {
            return None;
        }
        Some(state.vacant.pop().unwrap_or_else(|| {
            let magazine = Arc::new(Magazine::new());
            state.magazines.push(magazine.clone());
            magazine
        }))
    }

    /// Takes back the magazine of a thread that ends, and puts its objects into the stock.
    pub(super) fn leave(&self, magazine: Arc<Magazine<I>>, own: Own<'_, I>) {
        let mut guard = self.lock();
        let state = &mut *guard;
        // SAFETY: the lock is held until after the last use.
        let inside = unsafe { own.locked() };
        state.reserved -= inside.capacity();
        state.idle.extend(inside.drain());
        state.vacant.push(magazine);
    }

    /// Ends the pool: returns the idle objects, which the caller drops; objects that come back later are refused.
    pub(super) fn close(&self) -> Rest<I> {
        let mut state = self.lock();
        self.stop(&mut state);
        state.closed = true;
        let idle = core::mem::take(&mut state.idle);
        // Only leaked futures can have left tickets: other futures borrow the pool.
        let (objects, rights) = state.waiters.granted();
        state.counts.total -= idle.len() + objects + rights;
        state.counts.dropped += (idle.len() + objects) as u64;
        state.counts.created -= rights as u64;
        Rest { _idle: idle, _waiters: core::mem::replace(&mut state.waiters, Waiters::new()) }
    }

    /// The counts; exact for threads that do nothing meanwhile.
    pub(super) fn counts(&self) -> Counts {
        let state = self.lock();
        let magazines = || state.magazines.iter();
        Counts {
            idle: state.idle.len() + magazines().map(|magazine| magazine.count()).sum::<usize>(),
            reused: state.counts.reused + magazines().map(|magazine| magazine.reused()).sum::<u64>(),
            ..state.counts
        }
    }
}

impl Counts {
    /// Counts one more object.
    fn grow(&mut self) {
        self.total += 1;
        self.high_water = self.high_water.max(self.total);
    }
}
