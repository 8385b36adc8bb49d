//! The object pool that threads share.

use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::acquire::{Acquire, AcquireTimeout, wait};
use super::builder::PoolBuilder;
use super::objects::{Core, Node};
use super::pooled::Pooled;
use super::stats::PoolStats;

/// A pool of objects that are used again instead of being made anew.
///
/// The pool is `Sync`: share it by reference, in an [`Arc`], or in a `static` [`LazyLock`](std::sync::LazyLock).
/// Objects come out as [`Pooled`] guards, which return them. Guards don't borrow the pool: they may outlive it, and be
/// held across an `await` point or sent to other threads.
///
/// # Limits
/// At any time at most `max_idle` objects are idle, wherever they lie, and a returning object is dropped only if so
/// many are idle. At any time at most `max_total` objects exist, objects that are just being created included.
/// [`acquire`](Self::acquire) creates an object when neither the calling thread's magazine nor the stock has one,
/// though other threads' magazines may (at most 64 each): set `max_total` where each object counts.
///
/// # Panics
/// If the factory panics, nothing was created, and the panic reaches the caller of `acquire`. If the reset panics, the
/// object is dropped, and the panic reaches the thread that dropped the guard. A guard that is dropped while its thread
/// panics returns its object like any other; [`Pooled::detach`] an object that should not be trusted after that.
pub struct ObjectPool<T: Send + 'static> {
    core: Arc<Core<T>>,
}

impl<T: Send + 'static> ObjectPool<T> {
    /// A pool without limits, without a reset, and without objects so far.
    ///
    /// ```
    /// let pool = pymalloc_object_pool::ObjectPool::new(|| vec![0_u8; 4096]);
    /// assert_eq!(pool.acquire().len(), 4096);
    /// ```
    pub fn new(factory: impl Fn() -> T + Send + Sync + 'static) -> Self {
        Self::builder(factory).build().expect("the defaults are valid")
    }

    /// Builds a pool with a reset, limits, or objects to start with.
    pub fn builder(factory: impl Fn() -> T + Send + Sync + 'static) -> PoolBuilder<T> {
        PoolBuilder::new(Box::new(factory))
    }

    pub(super) fn from_core(core: Arc<Core<T>>) -> Self {
        Self { core }
    }

    /// An idle object, or a new one. Waits only if the pool has a `max_total` and all of them are in use; those that
    /// wait are served in turn.
    ///
    /// A thread that holds an object and waits for another one of the same pool may wait for ever.
    #[inline]
    pub fn acquire(&self) -> Pooled<T> {
        match self.core.take_fast() {
            Some(item) => Pooled::new(item),
            None => self.acquire_slow(),
        }
    }

    #[cold]
    #[inline(never)]
    fn acquire_slow(&self) -> Pooled<T> {
        match self.core.take_slow(true) {
            Some(item) => Pooled::new(item),
            None => wait(self.acquire_async(), None).expect("waits without a deadline"),
        }
    }

    /// An idle object, if there is one anywhere in the pool; never creates one, never waits for one. While other
    /// threads acquire and release, it may miss one that came to a magazine it had looked at already.
    #[inline]
    pub fn try_acquire(&self) -> Option<Pooled<T>> {
        self.core.take_fast().or_else(|| self.core.take_slow(false)).map(Pooled::new)
    }

    /// As [`acquire`](Self::acquire), but waits at most so long.
    ///
    /// # Errors
    /// [`AcquireTimeout`] if all objects stayed in use. The time that the factory takes is not limited.
    ///
    /// ```
    /// use std::time::Duration;
    /// let pool = pymalloc_object_pool::ObjectPool::builder(String::new).max_total(1).build()?;
    /// let only = pool.acquire();
    /// assert!(pool.acquire_timeout(Duration::from_millis(1)).is_err());
    /// drop(only);
    /// assert!(pool.acquire_timeout(Duration::from_millis(1)).is_ok());
    /// # Ok::<(), pymalloc_object_pool::PoolConfigError>(())
    /// ```
    pub fn acquire_timeout(&self, timeout: Duration) -> Result<Pooled<T>, AcquireTimeout> {
        if let Some(item) = self.core.take_fast() {
            return Ok(Pooled::new(item));
        }
        // A deadline beyond the clock's range is none.
        wait(self.acquire_async(), Instant::now().checked_add(timeout)).ok_or(AcquireTimeout)
    }

    /// As [`acquire`](Self::acquire), for tasks: a future that needs no particular runtime.
    ///
    /// It queues up when it is first polled. Dropping it gives the place up, and whatever was granted to it goes to
    /// the next. Leaking it (`mem::forget`) while it waits may leak an object.
    pub fn acquire_async(&self) -> Acquire<'_, T> {
        Acquire::new(&self.core)
    }

    /// Puts an object into the pool that did not come from it, or was detached. The reset runs on it first.
    ///
    /// # Errors
    /// The object (after its reset), if `max_idle` objects are idle or `max_total` exist.
    pub fn release(&self, mut object: T) -> Result<(), T> {
        self.core.reset(&mut object);
        let node = Box::new(Node { core: self.core.clone(), value: object });
        self.core.stock.adopt(node).map_err(|node| node.value)
    }

    /// Counts of this pool; exact if no other thread uses it meanwhile.
    pub fn stats(&self) -> PoolStats {
        self.core.stock.counts().into()
    }
}

impl<T: Send + 'static> Drop for ObjectPool<T> {
    /// Drops every idle object, also those in other threads' magazines. Objects in use are dropped when they are
    /// released.
    fn drop(&mut self) {
        drop(self.core.stock.close());
    }
}

impl<T: Send + 'static> fmt::Debug for ObjectPool<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectPool").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

// A panic in user's code finds the pool as it was before or after: see "Panics".
impl<T: Send + 'static> UnwindSafe for ObjectPool<T> {}
impl<T: Send + 'static> RefUnwindSafe for ObjectPool<T> {}
