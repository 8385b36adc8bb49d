//! The shared stock of an object pool: idle objects under a lock, the threads' magazines over it (Bonwick and Adams,
//! "Magazines and vmem", 2001), the limits, and who waits.
//!
//! A stock moves objects and counts them; it never creates, resets or drops one, and runs no user's code under its
//! lock. Those are its callers' (`objects.rs`).
//!
//! # Invariants
//! *idle bound*: objects in the stock + capacities of all magazines ≤ `max_idle`. A magazine's capacity is reserved
//! from the stock's, so no object is idle beyond `max_idle`, wherever it lies, at any time.
//!
//! *exact drop*: an object that returns is refused only if `max_idle` objects are idle at that moment: where capacities are
//! reserved, the owners are stopped and the reservations taken back first.
//!
//! *total bound*: objects idle, in use, granted or being created = `total` ≤ `max_total`.
//!
//! *no idle wait*: while somebody waits, the gate is shut, nothing is idle and `total` = `max_total`. So whatever
//! comes free passes the lock, and goes to the first waiter.

use std::sync::{Arc, PoisonError};
use std::task::Waker;

use super::magazine::{Gate, Inside, Magazine, Own};
use super::sync::{MAGAZINE_MAX, MAGAZINE_START, Mutex, MutexGuard, REOPEN_AFTER, fences_work};
use super::waiters::{Grant, Ticket, Waiters};

/// What a pool may hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Idle objects, those in magazines included.
    pub(super) max_idle: usize,
    /// Objects idle and in use.
    pub(super) max_total: usize,
    /// Objects in a thread's magazine; 0: no magazines.
    pub(super) magazine: usize,
}

/// How an object, or the right to one, was lost to the pool.
#[derive(Clone, Copy, Debug)]
pub(super) enum Loss {
    /// It was never made: the factory panicked, or nobody wanted it any more.
    NotCreated,
    /// The user took it out.
    Detached,
    /// It was dropped: there was no room for it, or its reset panicked. Counted after the drop, for until then it exists.
    Dropped,
}

/// Counts of a stock, at a moment.
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
    /// Whether the gate may ever open.
    has_magazines: bool,
    /// Aligned: who only looks at the gate is not disturbed by who takes the lock.
    state: Apart<Mutex<State<I>>>,
}

#[repr(align(128))]
struct Apart<V>(V);

struct State<I> {
    idle: Vec<I>,
    /// All that were ever made: one a thread that used the pool at the same time as the others.
    magazines: Vec<Arc<Magazine<I>>>,
    /// Those whose threads ended.
    vacant: Vec<Arc<Magazine<I>>>,
    /// Sum of the magazines' capacities.
    reserved: usize,
    waiters: Waiters<I>,
    /// The gate's state.
    shut: bool,
    /// Slow calls since the gate was shut, or since somebody waited.
    quiet: u32,
    /// The pool was dropped; what comes back now is dropped too.
    closed: bool,
    /// `idle`, and the magazines' share of `reused`, are filled in when asked for.
    counts: Counts,
}

/// What a caller that does not wait gets.
#[derive(Debug)]
pub(super) enum Taken<I> {
    Granted(Grant<I>),
    /// Nothing is idle, and none may be created.
    Nothing,
}

/// Where an object went that was to be kept.
enum Placed<I> {
    Kept,
    /// To a waiter, whose waker is to be called without the lock.
    Handed(Waker),
    /// `max_idle` are idle.
    Refused(I),
}

/// What a closed stock still held. To be dropped without the lock: drops are user's code.
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
        // No user's code runs under the lock; what can panic there is an allocation, before anything is moved.
        self.state.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an idle object, or, if `create`, the right to create one.
    pub(super) fn take(&self, own: Option<Own<'_, I>>, create: bool) -> Taken<I> {
        let mut state = self.lock();
        self.reopen_in_time(&mut state);
        self.take_locked(&mut state, own, create)
    }

    /// Takes the right to create an object, whatever is idle.
    pub(super) fn reserve(&self) -> bool {
        self.reserve_locked(&mut self.lock())
    }

    /// Takes an object or the right to create one, or queues up.
    pub(super) fn take_or_wait(&self, waker: Waker) -> Result<Grant<I>, Ticket> {
        let mut state = self.lock();
        match self.take_locked(&mut state, None, true) {
            Taken::Granted(grant) => Ok(grant),
            Taken::Nothing => {
                // Also the magazines that looked empty: what returns from now on must pass the lock.
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

    /// What was granted to the ticket, if anything; else `waker` is called when something is.
    pub(super) fn poll_ticket(&self, ticket: Ticket, waker: Waker) -> Option<Grant<I>> {
        let mut state = self.lock();
        let grant = state.waiters.collect(ticket);
        let unused = if grant.is_some() { Some(waker) } else { state.waiters.replace_waker(ticket, waker) };
        state.counts.reused += u64::from(matches!(grant, Some(Grant::Idle(_))));
        drop(state);
        drop(unused);
        grant
    }

    /// Gives a ticket up. What was granted to it goes on; an object that there is no room for is returned, as by
    /// [`put`](Self::put).
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

    /// Takes back an object of the pool; one that there is no room for is returned, to be dropped and then [lost](Self::lose).
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

    /// Takes in an object from outside, if there is room for it.
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

    /// A magazine for a thread that has none; `None` if this pool has no magazines (any more).
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

    /// Takes back the magazine of a thread that ends, and puts what is in it into the stock.
    pub(super) fn leave(&self, magazine: Arc<Magazine<I>>, own: Own<'_, I>) {
        let mut guard = self.lock();
        let state = &mut *guard;
        // SAFETY: the lock is held until after the last use.
        let inside = unsafe { own.locked() };
        state.reserved -= inside.capacity();
        state.idle.extend(inside.drain());
        state.vacant.push(magazine);
    }

    /// Ends the pool: what is idle is returned, to be dropped, and whatever comes back later is refused.
    pub(super) fn close(&self) -> Rest<I> {
        let mut state = self.lock();
        self.stop(&mut state);
        state.closed = true;
        let idle = core::mem::take(&mut state.idle);
        // Tickets left are those of futures that were leaked: others borrow the pool.
        let (objects, rights) = state.waiters.granted();
        state.counts.total -= idle.len() + objects + rights;
        state.counts.dropped += (idle.len() + objects) as u64;
        state.counts.created -= rights as u64;
        Rest { _idle: idle, _waiters: core::mem::replace(&mut state.waiters, Waiters::new()) }
    }

    /// Counts what there is; exact for threads that do nothing meanwhile.
    pub(super) fn counts(&self) -> Counts {
        let state = self.lock();
        let magazines = || state.magazines.iter();
        Counts {
            idle: state.idle.len() + magazines().map(|magazine| magazine.count()).sum::<usize>(),
            reused: state.counts.reused + magazines().map(|magazine| magazine.reused()).sum::<u64>(),
            ..state.counts
        }
    }

    fn take_locked(&self, state: &mut State<I>, own: Option<Own<'_, I>>, create: bool) -> Taken<I> {
        if state.idle.is_empty() && !create && state.magazines.iter().any(|magazine| magazine.count() > 0) {
            self.stop(state);
        }
        if let Some(item) = state.idle.pop() {
            state.counts.reused += 1;
            self.refill(state, own);
            return Taken::Granted(Grant::Idle(item));
        }
        if create && self.reserve_locked(state) { Taken::Granted(Grant::Create) } else { Taken::Nothing }
    }

    /// Counts an object that is going to be created, if one may be.
    fn reserve_locked(&self, state: &mut State<I>) -> bool {
        let may = state.counts.total < self.limits.max_total;
        if may {
            state.counts.created += 1;
            state.counts.grow();
        }
        may
    }

    /// Finds a place for an object: a waiter, the magazine, the stock.
    fn place(&self, state: &mut State<I>, own: Option<Own<'_, I>>, item: I) -> Placed<I> {
        if state.closed {
            return Placed::Refused(item);
        }
        let mut item = match state.waiters.grant(Grant::Idle(item)) {
            Ok(waker) => return Placed::Handed(waker),
            Err(Grant::Idle(item)) => item,
            Err(Grant::Create) => unreachable!("an object was offered"),
        };
        if let Some(inside) = self.inside(state, own) {
            self.widen(state, &inside);
            self.spill(state, &inside);
            match inside.push(item) {
                Ok(()) => return Placed::Kept,
                Err(back) => item = back,
            }
        }
        // Without a look whether they are full: it would take time, in which objects move from one to another.
        if self.room(state) == 0 && state.reserved > 0 {
            self.stop(state);
        }
        if self.room(state) == 0 {
            return Placed::Refused(item);
        }
        state.idle.push(item);
        Placed::Kept
    }

    /// Objects that the stock itself may still take (*idle bound*).
    fn room(&self, state: &State<I>) -> usize {
        self.limits.max_idle - state.reserved - state.idle.len()
    }

    /// The caller's magazine, if the gate is open: while it is shut, nothing goes into one (*shut is empty*).
    fn inside<'own>(&self, state: &State<I>, own: Option<Own<'own, I>>) -> Option<Inside<'own, I>> {
        // SAFETY: who has the state holds the lock, and all callers drop the view before it.
        if state.shut { None } else { own.map(|own| unsafe { own.locked() }) }
    }

    /// Reserves more capacity for a magazine that has turned out too small: as much again, and half of what is left at
    /// most, for the others.
    fn widen(&self, state: &mut State<I>, inside: &Inside<'_, I>) {
        let capacity = inside.capacity();
        let wanted = (2 * capacity).max(MAGAZINE_START).min(self.limits.magazine);
        let more = (wanted - capacity).min(self.room(state) / 2);
        inside.set_capacity(capacity + more);
        state.reserved += more;
    }

    /// Moves half of a full magazine into the stock, as far as there is room.
    fn spill(&self, state: &mut State<I>, inside: &Inside<'_, I>) {
        if inside.count() < inside.capacity() {
            return;
        }
        for _ in 0..inside.capacity().div_ceil(2).min(self.room(state)) {
            state.idle.extend(inside.pop());
        }
    }

    /// Moves objects from the stock into an empty magazine: half of what it may hold.
    fn refill(&self, state: &mut State<I>, own: Option<Own<'_, I>>) {
        let Some(inside) = self.inside(state, own) else { return };
        self.widen(state, &inside);
        while inside.count() < inside.capacity() / 2 {
            let Some(item) = state.idle.pop() else { return };
            if let Err(item) = inside.push(item) {
                state.idle.push(item);
                return;
            }
        }
    }

    /// Keeps all owners out and brings what they have home.
    fn stop(&self, state: &mut State<I>) {
        if state.shut {
            return;
        }
        self.gate.shut();
        for magazine in &state.magazines {
            // SAFETY: the gate was shut just above, under the lock, which outlives the view.
            let inside = unsafe { magazine.stopped() };
            state.idle.extend(inside.drain());
        }
        state.reserved = 0;
        state.shut = true;
        state.quiet = 0;
    }

    /// Opens the gate again, when nobody waited for a while: stopping costs a system call, so not at once.
    fn reopen_in_time(&self, state: &mut State<I>) {
        if !state.shut || !self.has_magazines || state.closed {
            return;
        }
        state.quiet = if state.waiters.is_empty() { state.quiet + 1 } else { 0 };
        if state.quiet >= REOPEN_AFTER {
            state.shut = false;
            self.gate.open();
        }
    }
}

#[cfg(test)]
impl<I> Stock<I> {
    /// Checks the invariants, and returns how many objects lie in the stock itself. No owner may be busy.
    pub(super) fn self_check(&self) -> usize {
        let state = self.lock();
        let held: usize = state.magazines.iter().map(|magazine| magazine.count()).sum();
        let free: usize = state.magazines.iter().map(|magazine| magazine.slack()).sum();
        assert_eq!(state.reserved, held + free, "capacities are not what was reserved");
        assert!(state.idle.len() + state.reserved <= self.limits.max_idle, "idle bound");
        assert!(state.counts.total <= self.limits.max_total, "total bound");
        assert!(!state.shut || state.reserved == 0, "shut is empty");
        if !state.waiters.is_empty() {
            assert!(state.shut && state.idle.is_empty() && state.counts.total == self.limits.max_total, "no idle wait");
        }
        let Counts { created, adopted, dropped, detached, total, .. } = state.counts;
        assert_eq!(created + adopted, total as u64 + dropped + detached, "the counts don't add up");
        state.idle.len()
    }
}

impl Counts {
    /// One more object.
    fn grow(&mut self) {
        self.total += 1;
        self.high_water = self.high_water.max(self.total);
    }
}
