//! The object pool of one thread: no lock, no atomics, no limits on what `T` may be.

use core::cell::{Cell, UnsafeCell};
use core::mem::ManuallyDrop;
use core::ops::{Deref, DerefMut};
use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::rc::Rc;

use super::builder::{PoolConfigError, check_prefill};
use super::stats::PoolStats;

/// A pool of objects for one thread. It is neither `Send` nor `Sync`; its objects need not be `Send` or `'static`.
///
/// It works as [`ObjectPool`](super::ObjectPool) does, also when the user's code panics. The one exception: nothing
/// waits, since one thread can't wait for itself.
///
/// ```
/// use pymalloc_object_pool::LocalPool;
///
/// let lines = LocalPool::builder(String::new).reset(String::clear).max_idle(8).build()?;
/// lines.acquire().push_str("a line");
/// assert_eq!(*lines.acquire(), "");
/// assert_eq!(lines.stats().created, 1);
/// # Ok::<(), pymalloc_object_pool::PoolConfigError>(())
/// ```
pub struct LocalPool<'f, T> {
    core: Rc<Core<'f, T>>,
}

type Factory<'f, T> = Box<dyn Fn() -> T + 'f>;
type Reset<'f, T> = Box<dyn Fn(&mut T) + 'f>;

struct Core<'f, T> {
    idle: Idle<Box<Node<'f, T>>>,
    factory: Factory<'f, T>,
    reset: Option<Reset<'f, T>>,
    counts: Cell<PoolStats>,
}

/// An object, and a reference to the core of its pool. The reference is made with the object, so that acquiring does
/// not count references.
struct Node<'f, T> {
    core: Rc<Core<'f, T>>,
    value: T,
}

/// A stack of idle objects.
///
/// # Invariants
/// *limit*: `limit` is at most the stack's capacity and at most `max`. So one comparison shows that an object may be
/// pushed and that pushing it needs no memory.
struct Idle<I> {
    stack: UnsafeCell<Vec<I>>,
    limit: Cell<usize>,
    /// Acquisitions that this stack served.
    reused: Cell<u64>,
    /// Most idle objects; 0 after the pool was dropped.
    max: Cell<usize>,
}

impl<I> Idle<I> {
    fn new(max: usize, prefill: usize) -> Self {
        let stack = Vec::with_capacity(prefill);
        let limit = Cell::new(stack.capacity().min(max));
        Self { stack: UnsafeCell::new(stack), limit, reused: Cell::new(0), max: Cell::new(max) }
    }

    #[inline(always)]
    fn pop(&self) -> Option<I> {
        // SAFETY: the type is not `Sync`, and none of the user's code runs while the reference lives.
        let item = unsafe { &mut *self.stack.get() }.pop()?;
        self.reused.set(self.reused.get() + 1);
        Some(item)
    }

    #[inline(always)]
    fn push(&self, item: I) -> Result<(), I> {
        // SAFETY: as in `pop`.
        let stack = unsafe { &mut *self.stack.get() };
        if stack.len() >= self.limit.get() {
            return self.push_slow(item);
        }
        // SAFETY: *limit*: there is room in the stack's memory.
        unsafe {
            stack.as_mut_ptr().add(stack.len()).write(item);
            stack.set_len(stack.len() + 1);
        }
        Ok(())
    }

    #[cold]
    #[inline(never)]
    fn push_slow(&self, item: I) -> Result<(), I> {
        // SAFETY: as in `pop`; the allocator that grows the stack must not use this pool.
        let stack = unsafe { &mut *self.stack.get() };
        if stack.len() >= self.max.get() {
            return Err(item);
        }
        stack.push(item);
        self.limit.set(stack.capacity().min(self.max.get()));
        Ok(())
    }

    fn count(&self) -> usize {
        // SAFETY: as in `pop`.
        unsafe { &*self.stack.get() }.len()
    }

    /// Ends the pool: returns all objects, and accepts no more.
    fn close(&self) -> Vec<I> {
        self.max.set(0);
        self.limit.set(0);
        // SAFETY: as in `pop`.
        core::mem::take(unsafe { &mut *self.stack.get() })
    }
}

impl<'f, T> LocalPool<'f, T> {
    /// Makes an empty pool without limits and without a reset.
    pub fn new(factory: impl Fn() -> T + 'f) -> Self {
        Self::builder(factory).build().expect("the defaults are valid")
    }

    /// Starts to build a pool with a reset, a limit, or objects to start with.
    pub fn builder(factory: impl Fn() -> T + 'f) -> LocalPoolBuilder<'f, T> {
        LocalPoolBuilder { factory: Box::new(factory), reset: None, max_idle: usize::MAX, prefill: 0 }
    }

    /// Takes an idle object, or creates one.
    #[inline]
    pub fn acquire(&self) -> LocalPooled<'f, T> {
        LocalPooled::new(self.core.idle.pop().unwrap_or_else(|| self.core.create()))
    }

    /// Takes an idle object, if there is one; never creates one.
    #[inline]
    pub fn try_acquire(&self) -> Option<LocalPooled<'f, T>> {
        self.core.idle.pop().map(LocalPooled::new)
    }

    /// Puts a new object, or one that was detached, into the pool. The reset runs on it first.
    ///
    /// # Errors
    /// Returns the object (after its reset) if `max_idle` objects are idle.
    pub fn release(&self, mut object: T) -> Result<(), T> {
        let core = &self.core;
        if let Some(reset) = &core.reset {
            reset(&mut object);
        }
        core.idle.push(Box::new(Node { core: core.clone(), value: object })).map_err(|node| node.value)?;
        core.count(|counts| counts.adopted += 1);
        core.note_high_water();
        Ok(())
    }

    /// The statistics of this pool.
    pub fn stats(&self) -> PoolStats {
        self.core.stats()
    }
}

impl<'f, T> Core<'f, T> {
    #[cold]
    #[inline(never)]
    fn create(self: &Rc<Self>) -> Box<Node<'f, T>> {
        let node = Box::new(Node { core: self.clone(), value: (self.factory)() });
        self.count(|counts| counts.created += 1);
        self.note_high_water();
        node
    }

    fn count(&self, body: impl FnOnce(&mut PoolStats)) {
        let mut counts = self.counts.get();
        body(&mut counts);
        self.counts.set(counts);
    }

    fn note_high_water(&self) {
        let stats = self.stats();
        self.count(|counts| counts.high_water = counts.high_water.max(stats.idle + stats.in_use));
    }

    fn stats(&self) -> PoolStats {
        let mut stats = self.counts.get();
        stats.idle = self.idle.count();
        stats.reused = self.idle.reused.get();
        let total = stats.created + stats.adopted - stats.dropped - stats.detached;
        stats.in_use = usize::try_from(total).expect("they fit into memory") - stats.idle;
        stats
    }
}

impl<T> Drop for LocalPool<'_, T> {
    /// Drops every idle object. Objects in use are dropped when they are released.
    fn drop(&mut self) {
        let idle = self.core.idle.close();
        self.core.count(|counts| counts.dropped += idle.len() as u64);
        drop(idle);
    }
}

impl<T> fmt::Debug for LocalPool<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalPool").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

// If the user's code panics, the pool is as it was before the call or as it is after it.
impl<T> UnwindSafe for LocalPool<'_, T> {}
impl<T> RefUnwindSafe for LocalPool<'_, T> {}

/// A builder of a [`LocalPool`], from [`LocalPool::builder`].
#[must_use = "a builder builds nothing by itself"]
pub struct LocalPoolBuilder<'f, T> {
    factory: Factory<'f, T>,
    reset: Option<Reset<'f, T>>,
    max_idle: usize,
    prefill: usize,
}

impl<'f, T> LocalPoolBuilder<'f, T> {
    /// Sets a function that runs on each released object before it becomes idle.
    pub fn reset(mut self, reset: impl Fn(&mut T) + 'f) -> Self {
        self.reset = Some(Box::new(reset));
        self
    }

    /// Limits the idle objects to `objects`; further ones are dropped. By default there is no limit.
    pub fn max_idle(mut self, objects: usize) -> Self {
        self.max_idle = objects;
        self
    }

    /// Makes the pool start with this number of objects.
    pub fn prefill(mut self, objects: usize) -> Self {
        self.prefill = objects;
        self
    }

    /// Builds the pool.
    ///
    /// # Errors
    /// If `prefill` exceeds `max_idle`.
    pub fn build(self) -> Result<LocalPool<'f, T>, PoolConfigError> {
        check_prefill(self.prefill, self.max_idle)?;
        let idle = Idle::new(self.max_idle, self.prefill);
        let core = Core { idle, factory: self.factory, reset: self.reset, counts: Cell::default() };
        let pool = LocalPool { core: Rc::new(core) };
        for _ in 0..self.prefill {
            let node = pool.core.create();
            drop(pool.core.idle.push(node));
        }
        Ok(pool)
    }
}

impl<T> fmt::Debug for LocalPoolBuilder<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalPoolBuilder")
            .field("max_idle", &self.max_idle)
            .field("prefill", &self.prefill)
            .finish_non_exhaustive()
    }
}

/// A guard of an object in use, from a [`LocalPool`]. The object goes back to the pool when the guard is dropped. The
/// guard may outlive the pool.
pub struct LocalPooled<'f, T> {
    item: ManuallyDrop<Box<Node<'f, T>>>,
}

impl<'f, T> LocalPooled<'f, T> {
    #[inline(always)]
    fn new(item: Box<Node<'f, T>>) -> Self {
        Self { item: ManuallyDrop::new(item) }
    }

    /// Takes the object out of the pool for good.
    ///
    /// This is an associated function, so that it hides no method of `T`.
    pub fn detach(this: Self) -> T {
        let mut this = ManuallyDrop::new(this);
        // SAFETY: the guard is neither used again nor dropped.
        let Node { core, value } = *unsafe { ManuallyDrop::take(&mut this.item) };
        core.count(|counts| counts.detached += 1);
        value
    }
}

impl<T> Drop for LocalPooled<'_, T> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the last use of the guard.
        let item = unsafe { ManuallyDrop::take(&mut self.item) };
        let item = if item.core.reset.is_some() { reset(item) } else { item };
        let core: *const Core<'_, T> = Rc::as_ptr(&item.core);
        // SAFETY: the object keeps the core alive, even while it is pushed onto the core's stack.
        if let Err(item) = unsafe { (*core).idle.push(item) } {
            discard(item);
        }
    }
}

/// Resets a returned object. If the reset panics, the object is dropped.
fn reset<'f, T>(item: Box<Node<'f, T>>) -> Box<Node<'f, T>> {
    struct Spoilt<'f, T>(Option<Box<Node<'f, T>>>);
    impl<T> Drop for Spoilt<'_, T> {
        fn drop(&mut self) {
            self.0.take().into_iter().for_each(discard);
        }
    }
    let mut spoilt = Spoilt(Some(item));
    if let Some(node) = &mut spoilt.0 {
        let Node { core, value } = &mut **node;
        core.reset.as_ref().expect("asked before")(value);
    }
    spoilt.0.take().expect("put there above")
}

/// Drops an object for good.
#[cold]
#[inline(never)]
fn discard<T>(item: Box<Node<'_, T>>) {
    item.core.count(|counts| counts.dropped += 1);
    drop(item);
}

impl<T> Deref for LocalPooled<'_, T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        &self.item.value
    }
}

impl<T> DerefMut for LocalPooled<'_, T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.item.value
    }
}

impl<T> AsRef<T> for LocalPooled<'_, T> {
    fn as_ref(&self) -> &T {
        self
    }
}

impl<T> AsMut<T> for LocalPooled<'_, T> {
    fn as_mut(&mut self) -> &mut T {
        self
    }
}

impl<T: fmt::Debug> fmt::Debug for LocalPooled<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: fmt::Display> fmt::Display for LocalPooled<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: UnwindSafe> UnwindSafe for LocalPooled<'_, T> {}
impl<T: RefUnwindSafe> RefUnwindSafe for LocalPooled<'_, T> {}
