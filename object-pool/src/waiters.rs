//! The queue for an object of a bounded pool, first come, first served.
//!
//! A returned object is handed directly to the first waiter: it never lies in the stock, where a newcomer could take
//! it. The waiter finds the object under its ticket. A waiter that gives up returns its ticket, and what lies under it
//! goes to the next waiter.

use std::collections::VecDeque;
use std::task::Waker;

/// A place in the queue.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Ticket(u64);

/// What a waiter gets.
#[derive(Debug)]
pub(super) enum Grant<I> {
    /// An idle object.
    Idle(I),
    /// The right, counted already, to create one.
    Create,
}

/// The queue.
///
/// # Invariants
/// A ticket that was given out is in exactly one of `waiting` and `granted` until it is collected or returned.
/// `waiting` is in order of arrival.
pub(super) struct Waiters<I> {
    waiting: VecDeque<(Ticket, Waker)>,
    granted: Vec<(Ticket, Grant<I>)>,
    next: Ticket,
}

impl<I> Waiters<I> {
    pub(super) fn new() -> Self {
        Self { waiting: VecDeque::new(), granted: Vec::new(), next: Ticket(0) }
    }

    /// Whether no ticket waits. (A ticket with a grant to collect does not wait.)
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn join(&mut self, waker: Waker) -> Ticket {
        let ticket = self.next;
        self.next = Ticket(ticket.0 + 1);
        self.waiting.push_back((ticket, waker));
        ticket
    }

    /// Puts a grant under the first ticket and returns the waker to call; gives the grant back if nobody waits.
    pub(super) fn grant(&mut self, grant: Grant<I>) -> Result<Waker, Grant<I>> {
        match self.waiting.pop_front() {
            Some((ticket, waker)) => {
                self.granted.push((ticket, grant));
                Ok(waker)
            }
            None => Err(grant),
        }
    }

    /// Takes the grant that lies under the ticket, and ends the ticket.
    pub(super) fn collect(&mut self, ticket: Ticket) -> Option<Grant<I>> {
        let place = self.granted.iter().position(|(granted, _)| *granted == ticket)?;
        Some(self.granted.swap_remove(place).1)
    }

    /// Replaces the ticket's waker; returns the old one, to be dropped outside of the lock.
    pub(super) fn replace_waker(&mut self, ticket: Ticket, waker: Waker) -> Option<Waker> {
        let place = self.place(ticket)?;
        Some(core::mem::replace(&mut self.waiting[place].1, waker))
    }

    /// Returns a ticket that waits; its waker is dropped outside of the lock.
    pub(super) fn leave(&mut self, ticket: Ticket) -> Option<Waker> {
        let place = self.place(ticket)?;
        self.waiting.remove(place).map(|(_, waker)| waker)
    }

    /// How many objects, and how many rights to create one, lie under tickets.
    pub(super) fn granted(&self) -> (usize, usize) {
        let objects = self.granted.iter().filter(|(_, grant)| matches!(grant, Grant::Idle(_))).count();
        (objects, self.granted.len() - objects)
    }

    fn place(&self, ticket: Ticket) -> Option<usize> {
        self.waiting.binary_search_by_key(&ticket, |(waiting, _)| *waiting).ok()
    }
}
