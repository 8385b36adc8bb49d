//! How objects move between the stock, the magazines and the waiters. A caller that has a [`State`] holds the lock.

use super::super::magazine::{Inside, Own};
use super::super::sync::{MAGAZINE_START, REOPEN_AFTER};
use super::super::waiters::Grant;
#[cfg(test)]
use super::Counts;
use super::{Placed, State, Stock, Taken};

impl<I> Stock<I> {
    pub(super) fn take_locked(&self, state: &mut State<I>, own: Option<Own<'_, I>>, create: bool) -> Taken<I> {
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

    /// Counts an object that the caller will create, if `max_total` allows one.
    pub(super) fn reserve_locked(&self, state: &mut State<I>) -> bool {
        let may = state.counts.total < self.limits.max_total;
        if may {
            state.counts.created += 1;
            state.counts.grow();
        }
        may
    }

    /// Finds a place for an object: a waiter, the magazine, the stock.
    pub(super) fn place(&self, state: &mut State<I>, own: Option<Own<'_, I>>, item: I) -> Placed<I> {
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
        // This does not look whether the magazines are full: looking takes time, in which objects move from one to
        // another.
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
        // SAFETY: a caller that has the state holds the lock, and all callers drop the view before the lock.
        if state.shut { None } else { own.map(|own| unsafe { own.locked() }) }
    }

    /// Reserves more capacity for a magazine that has turned out too small: as much again, but at most half of the room
    /// that is left, so that other magazines get some, too.
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

    /// Moves objects from the stock into an empty magazine: half of its capacity.
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

    /// Keeps all owners out and brings their idle objects into the stock.
    pub(super) fn stop(&self, state: &mut State<I>) {
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

    /// Opens the gate again after a time in which no thread waited. Not at once, because shutting it again would cost a
    /// system call.
    pub(super) fn reopen_in_time(&self, state: &mut State<I>) {
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
    pub(in super::super) fn self_check(&self) -> usize {
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
