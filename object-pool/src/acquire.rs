//! Waiting for an object of a bounded pool: as a task, as a thread, and with a deadline.
//!
//! There is one way to wait: the future. A thread that waits polls it, and parks in between.

use core::future::Future;
use core::pin::{Pin, pin};
use core::task::{Context, Poll, Waker};
use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::task::Wake;
use std::thread::{self, Thread};
use std::time::Instant;

use super::objects::{Core, discard};
use super::pooled::Pooled;
use super::waiters::Ticket;

/// A future that waits for an object of a pool, from [`ObjectPool::acquire_async`](super::ObjectPool::acquire_async).
/// If it is polled again after it was ready, it acquires another object.
#[must_use = "futures do nothing unless polled"]
pub struct Acquire<'pool, T: Send + 'static> {
    core: &'pool Arc<Core<T>>,
    ticket: Option<Ticket>,
}

impl<'pool, T: Send + 'static> Acquire<'pool, T> {
    pub(super) fn new(core: &'pool Arc<Core<T>>) -> Self {
        Self { core, ticket: None }
    }
}

impl<T: Send + 'static> Future for Acquire<'_, T> {
    type Output = Pooled<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Pooled<T>> {
        let core = self.core;
        let granted = match self.ticket {
            None => {
                if let Some(item) = core.take_fast().or_else(|| core.take_slow(true)) {
                    return Poll::Ready(Pooled::new(item));
                }
                // Cloned before the lock is taken: a waker is the user's code.
                match core.stock.take_or_wait(context.waker().clone()) {
                    Ok(grant) => grant,
                    Err(ticket) => {
                        self.ticket = Some(ticket);
                        return Poll::Pending;
                    }
                }
            }
            Some(ticket) => match core.stock.poll_ticket(ticket, context.waker().clone()) {
                Some(grant) => grant,
                None => return Poll::Pending,
            },
        };
        self.ticket = None;
        Poll::Ready(Pooled::new(core.redeem(granted)))
    }
}

impl<T: Send + 'static> Drop for Acquire<'_, T> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.core.stock.give_up(ticket).into_iter().for_each(discard);
        }
    }
}

impl<T: Send + 'static> fmt::Debug for Acquire<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acquire").field("waits", &self.ticket.is_some()).finish_non_exhaustive()
    }
}

/// The error of [`ObjectPool::acquire_timeout`](super::ObjectPool::acquire_timeout): all objects of the pool stayed in
/// use for the whole time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AcquireTimeout;

impl fmt::Display for AcquireTimeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no object of the pool came free in time")
    }
}

impl Error for AcquireTimeout {}

/// Wakes a thread that is parked in [`wait`].
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.unpark();
    }
}

fn new_waker() -> Waker {
    Arc::new(Unpark(thread::current())).into()
}

thread_local! {
    /// Made once per thread, so that waiting does not allocate.
    static WAKER: Waker = new_waker();
}

/// Waits for the future, until the deadline if there is one.
pub(super) fn wait<T: Send + 'static>(acquire: Acquire<'_, T>, deadline: Option<Instant>) -> Option<Pooled<T>> {
    let waker = WAKER.try_with(Waker::clone).unwrap_or_else(|_| new_waker());
    let mut context = Context::from_waker(&waker);
    let mut acquire = pin!(acquire);
    loop {
        if let Poll::Ready(pooled) = acquire.as_mut().poll(&mut context) {
            return Some(pooled);
        }
        match deadline {
            None => thread::park(),
            Some(deadline) => match deadline.checked_duration_since(Instant::now()) {
                Some(left) if !left.is_zero() => thread::park_timeout(left),
                _ => return None,
            },
        }
    }
}
