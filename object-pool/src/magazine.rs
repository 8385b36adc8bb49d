//! A magazine: a thread's own stack of idle objects of one object pool; and the gate, which keeps owners out so that
//! another thread can empty the magazines.
//!
//! # Protocol
//! The owner enters by a biased lock: it announces itself in `busy`, passes a light fence, and looks at the gate. A
//! thread that stops the owners (under the stock's lock) shuts the gate, passes a heavy fence, and waits until no owner
//! is busy. It soon sleeps between its looks, because an owner of lower priority may be waiting for its processor. One
//! of the two fences comes first, so either the owner sees the gate shut, or the stopping thread sees the owner busy.
//!
//! # Invariants
//! *exclusive*: the slots, the count and the capacity are touched only by
//! 1. the owner, while it is busy and has seen the gate open;
//! 2. the owner, while it holds the stock's lock;
//! 3. the holder of the stock's lock, while the gate is shut and once it has seen `busy` false since the shutting.
//!
//! 1 excludes 3 by the fences, 2 excludes 3 by the lock, and 1 and 2 are one thread.
//!
//! *shut is empty*: while the gate is shut and the stock's lock is free, count and capacity are 0.

use core::marker::PhantomData;
use core::mem::MaybeUninit;

use super::sync::{
    AtomicBool, AtomicU64, AtomicUsize, MAGAZINE_MAX, Ordering, UnsafeCell, heavy_fence, light_fence, pause,
};

/// Whether owners may use their magazines. There is one gate per pool.
pub(super) struct Gate {
    open: AtomicBool,
}

impl Gate {
    pub(super) fn new(open: bool) -> Self {
        Self { open: AtomicBool::new(open) }
    }

    /// Acquire: pairs with the Release of [`open`](Self::open), so an owner sees what was done while it was shut.
    #[inline(always)]
    fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    /// Lets owners in again. The caller holds the stock's lock.
    pub(super) fn open(&self) {
        // Release: pairs with the Acquire of `is_open`.
        self.open.store(true, Ordering::Release);
    }

    /// Keeps owners out from now on. An owner that is inside already may stay until its visit ends. The caller holds
    /// the stock's lock.
    pub(super) fn shut(&self) {
        // Relaxed: the heavy fence orders it before the looks at `busy`.
        self.open.store(false, Ordering::Relaxed);
        heavy_fence();
    }
}

/// A thread's stack of idle objects. Aligned so that no two threads write to the same pair of cache lines.
#[repr(align(128))]
pub(super) struct Magazine<I> {
    busy: AtomicBool,
    count: AtomicUsize,
    capacity: AtomicUsize,
    reused: AtomicU64,
    slots: UnsafeCell<[MaybeUninit<I>; MAGAZINE_MAX]>,
}

// SAFETY: *exclusive* hands the slots to one thread at a time; `I: Send` lets objects move between threads.
unsafe impl<I: Send> Sync for Magazine<I> {}
// SAFETY: a magazine owns what is in it.
unsafe impl<I: Send> Send for Magazine<I> {}

impl<I> Magazine<I> {
    pub(super) fn new() -> Self {
        Self {
            busy: AtomicBool::new(false),
            count: AtomicUsize::new(0),
            capacity: AtomicUsize::new(0),
            reused: AtomicU64::new(0),
            slots: UnsafeCell::new([const { MaybeUninit::uninit() }; MAGAZINE_MAX]),
        }
    }

    /// The owner's view.
    ///
    /// # Safety
    /// The calling thread owns the magazine.
    #[inline(always)]
    pub(super) unsafe fn own(&self) -> Own<'_, I> {
        Own { magazine: self, stays_here: PhantomData }
    }

    /// The view of the thread that stopped the owners.
    ///
    /// # Safety
    /// The caller holds the stock's lock, has shut the gate under it, and drops the view before it frees the lock.
    pub(super) unsafe fn stopped(&self) -> Inside<'_, I> {
        // Acquire: pairs with the Release that ends an owner's visit.
        let mut looks = 0;
        while self.busy.load(Ordering::Acquire) {
            pause(looks);
            looks = looks.saturating_add(1);
        }
        Inside { magazine: self }
    }

    /// Number of objects inside. It is exact for the owner, and for the holder of the stock's lock if the owner does
    /// nothing meanwhile.
    pub(super) fn count(&self) -> usize {
        // Relaxed: a number. A caller that acts on it looks again when it has the right to the slots.
        self.count.load(Ordering::Relaxed)
    }

    /// Free places; as exact as [`count`](Self::count).
    #[cfg(test)]
    pub(super) fn slack(&self) -> usize {
        self.capacity.load(Ordering::Relaxed).saturating_sub(self.count())
    }

    /// How many acquisitions the magazine served.
    pub(super) fn reused(&self) -> u64 {
        // Relaxed: a number.
        self.reused.load(Ordering::Relaxed)
    }
}

impl<I> Drop for Magazine<I> {
    fn drop(&mut self) {
        drop(Inside { magazine: self }.drain());
    }
}

/// A magazine, for the thread that owns it.
pub(super) struct Own<'magazine, I> {
    magazine: &'magazine Magazine<I>,
    stays_here: PhantomData<*mut ()>,
}

impl<I> Clone for Own<'_, I> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<I> Copy for Own<'_, I> {}

impl<'magazine, I> Own<'magazine, I> {
    /// Takes the object that came last; `None` if there is none or the gate is shut.
    #[inline(always)]
    pub(super) fn pop(self, gate: &Gate) -> Option<I> {
        let visit = self.enter();
        if !gate.is_open() {
            return None;
        }
        let item = visit.inside.pop()?;
        visit.inside.count_reused();
        Some(item)
    }

    /// Puts an object in; gives it back if there is no room or the gate is shut.
    #[inline(always)]
    pub(super) fn push(self, gate: &Gate, item: I) -> Result<(), I> {
        let visit = self.enter();
        if gate.is_open() { visit.inside.push(item) } else { Err(item) }
    }

    #[inline(always)]
    pub(super) fn enter(self) -> Visit<'magazine, I> {
        // Relaxed: the light fence orders it before the look at the gate.
        self.magazine.busy.store(true, Ordering::Relaxed);
        light_fence();
        Visit { inside: Inside { magazine: self.magazine } }
    }

    /// The view of the owner under the stock's lock.
    ///
    /// # Safety
    /// The caller holds the stock's lock, and drops the view before it frees it.
    pub(super) unsafe fn locked(self) -> Inside<'magazine, I> {
        Inside { magazine: self.magazine }
    }
}

/// The visit of an owner that has announced itself. It is short: none of the user's code runs during it, and nothing
/// panics.
pub(super) struct Visit<'magazine, I> {
    inside: Inside<'magazine, I>,
}

impl<I> Drop for Visit<'_, I> {
    #[inline(always)]
    fn drop(&mut self) {
        // Release: pairs with the Acquire of `stopped`. After it the magazine may be gone.
        self.inside.magazine.busy.store(false, Ordering::Release);
    }
}

/// The right to touch the slots (*exclusive*).
pub(super) struct Inside<'magazine, I> {
    magazine: &'magazine Magazine<I>,
}

impl<I> Inside<'_, I> {
    #[inline(always)]
    pub(super) fn pop(&self) -> Option<I> {
        let left = self.magazine.count().checked_sub(1)?;
        self.set_count(left);
        // SAFETY: *exclusive*; slots below the count are filled, and the count is below this slot now.
        Some(self.magazine.slots.with_mut(|slots| unsafe { (*slots).get_unchecked(left).assume_init_read() }))
    }

    #[inline(always)]
    pub(super) fn push(&self, item: I) -> Result<(), I> {
        let count = self.magazine.count();
        if count >= self.capacity() {
            return Err(item);
        }
        // SAFETY: *exclusive*; a capacity is at most MAGAZINE_MAX, and the slot at the count is empty.
        self.magazine.slots.with_mut(|slots| unsafe {
            (*slots).get_unchecked_mut(count).write(item);
        });
        self.set_count(count + 1);
        Ok(())
    }

    /// Takes all objects and all capacity out.
    pub(super) fn drain(&self) -> impl Iterator<Item = I> {
        self.set_capacity(0);
        core::iter::from_fn(|| self.pop())
    }

    pub(super) fn count(&self) -> usize {
        self.magazine.count()
    }

    pub(super) fn capacity(&self) -> usize {
        self.magazine.capacity.load(Ordering::Relaxed)
    }

    /// # Panics
    /// If `capacity` is more than a magazine has slots.
    pub(super) fn set_capacity(&self, capacity: usize) {
        assert!(capacity <= MAGAZINE_MAX);
        // Relaxed: only a thread inside writes it; others read it as a hint.
        self.magazine.capacity.store(capacity, Ordering::Relaxed);
    }

    /// Relaxed: as for the capacity.
    #[inline(always)]
    fn set_count(&self, count: usize) {
        self.magazine.count.store(count, Ordering::Relaxed);
    }

    /// Relaxed, and no read-modify-write: only a thread inside writes it.
    #[inline(always)]
    fn count_reused(&self) {
        self.magazine.reused.store(self.magazine.reused() + 1, Ordering::Relaxed);
    }
}
