//! The object pool for many threads.

use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::acquire::{Acquire, AcquireTimeout, wait};
use super::builder::PoolBuilder;
use super::objects::{Core, Node};
use super::pooled::Pooled;
use super::stats::PoolStats;

/// A pool that keeps released objects and hands them out again, so that fewer have to be created.
///
/// The pool is `Sync`: share it by reference, in an [`Arc`], or in a `static` [`LazyLock`](std::sync::LazyLock).
/// Objects come out as [`Pooled`] guards, which return them. Guards don't borrow the pool: they may outlive it, and be
/// held across an `await` point or sent to other threads.
///
/// # Limits
/// At any time at most `max_idle` objects are idle, wherever they lie. A returned object is dropped only if `max_idle`
/// objects are idle. At any time at most `max_total` objects exist, including those that are just being created.
/// [`acquire`](Self::acquire) creates an object if neither the calling thread's magazine nor the stock has one, even if
/// other threads' magazines have some (at most 64 each). Set `max_total` if the number of objects must be bounded.
///
/// # Panics
/// If the factory panics, nothing was created, and the panic reaches the caller of `acquire`. If the reset panics, the
/// object is dropped, and the panic reaches the thread that dropped the guard. A guard that is dropped while its thread
/// panics returns its object like any other. Use [`Pooled::detach`] for an object that should not be trusted after a
/// panic.
pub struct ObjectPool<T: Send + 'static> {
    core: Arc<Core<T>>,
}

impl<T: Send + 'static> ObjectPool<T> {
    /// Makes an empty pool without limits and without a reset.
    ///
    /// ```
    /// let pool = pymalloc_object_pool::ObjectPool::new(|| vec![0_u8; 4096]);
    /// assert_eq!(pool.acquire().len(), 4096);
    /// ```
    pub fn new(factory: impl Fn() -> T + Send + Sync + 'static) -> Self {
        Self::builder(factory).build().expect("the defaults are valid")
    }

    /// Starts to build a pool with a reset, limits, or objects to start with.
    pub fn builder(factory: impl Fn() -> T + Send + Sync + 'static) -> PoolBuilder<T> {
        PoolBuilder::new(Box::new(factory))
    }

    pub(super) fn from_core(core: Arc<Core<T>>) -> Self {
        Self { core }
    }

    /// Takes an idle object, or creates one. Waits only if `max_total` objects exist and all are in use. Waiting
    /// threads are served in turn.
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

    /// Takes an idle object, if there is one anywhere in the pool; never creates one, and never waits for one. While
    /// other threads acquire and release, it may miss an object that came to a magazine after it had looked there.
    #[inline]
    pub fn try_acquire(&self) -> Option<Pooled<T>> {
        self.core.take_fast().or_else(|| self.core.take_slow(false)).map(Pooled::new)
    }

    /// Takes an idle object, or creates one, as [`acquire`](Self::acquire) does, but waits at most for `timeout`.
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
        // A deadline beyond the clock's range counts as no deadline.
        wait(self.acquire_async(), Instant::now().checked_add(timeout)).ok_or(AcquireTimeout)
    }

    /// Returns a future that does what [`acquire`](Self::acquire) does, for tasks of any runtime.
    ///
    /// The future joins the queue when it is first polled. If it is dropped, it leaves the queue, and an object that
    /// was granted to it goes to the next waiter. If it is leaked (`mem::forget`) while it waits, an object may leak.
    pub fn acquire_async(&self) -> Acquire<'_, T> {
        Acquire::new(&self.core)
    }

    /// Puts a new object, or one that was detached, into the pool. The reset runs on it first.
    ///
    /// # Errors
    /// Returns the object (after its reset) if `max_idle` objects are idle or `max_total` exist.
    pub fn release(&self, mut object: T) -> Result<(), T> {
        self.core.reset(&mut object);
        let node = Box::new(Node { core: self.core.clone(), value: object });
        self.core.stock.adopt(node).map_err(|node| node.value)
    }

    /// The statistics of this pool, which are exact if no other thread uses the pool meanwhile.
    pub fn stats(&self) -> PoolStats {
        self.core.stock.counts().into()
    }
}

impl<T: Send + 'static> Drop for ObjectPool<T> {
    /// Drops every idle object, even in other threads' magazines. Objects in use are dropped when they are released.
    fn drop(&mut self) {
        drop(self.core.stock.close());
    }
}

impl<T: Send + 'static> fmt::Debug for ObjectPool<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectPool").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

// If the user's code panics, the pool is as it was before the call or as it is after it: see "Panics".
impl<T: Send + 'static> UnwindSafe for ObjectPool<T> {}
impl<T: Send + 'static> RefUnwindSafe for ObjectPool<T> {}
