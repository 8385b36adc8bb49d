//! The core of a pool, which its objects share: the stock, the factory and the reset.
//!
//! # Ownership
//! Each object lives in a node of its own, together with a reference to the core. The reference is made when the object
//! is created, not when it is acquired, so acquiring and releasing count no references. Idle nodes and the core hold
//! each other; dropping the pool closes the stock, which breaks the cycle. Guards that still exist keep the core alive,
//! and the last one frees it.

use core::ptr::NonNull;
use std::sync::{Arc, Weak};

use super::magazine::{Magazine, Own};
use super::slots::{self, Home, PoolId};
use super::stock::{Limits, Loss, Stock, Taken};
use super::waiters::Grant;

/// An object, and a reference to the core of its pool.
pub(super) struct Node<T: Send + 'static> {
    pub(super) core: Arc<Core<T>>,
    pub(super) value: T,
}

type Item<T> = Box<Node<T>>;
type Factory<T> = Box<dyn Fn() -> T + Send + Sync>;
pub(super) type Reset<T> = Box<dyn Fn(&mut T) + Send + Sync>;

/// See the module.
pub(super) struct Core<T: Send + 'static> {
    id: PoolId,
    reset: Option<Reset<T>>,
    factory: Factory<T>,
    pub(super) stock: Stock<Item<T>>,
}

impl<T: Send + 'static> Core<T> {
    pub(super) fn new(factory: Factory<T>, reset: Option<Reset<T>>, limits: Limits) -> Self {
        Self { id: PoolId::new(), reset, factory, stock: Stock::new(limits) }
    }

    /// The calling thread's magazine, if it has one already.
    #[inline(always)]
    fn own(&self) -> Option<Own<'_, Item<T>>> {
        let magazine: NonNull<Magazine<Item<T>>> = slots::find(&self.id)?.cast();
        // SAFETY: found under this pool's key, so the magazine lives as long as the pool, has the pool's type, and
        // belongs to this thread.
        Some(unsafe { magazine.as_ref().own() })
    }

    /// The calling thread's magazine; made now if the thread has none.
    fn own_or_join(self: &Arc<Self>) -> Option<Own<'_, Item<T>>> {
        if let Some(own) = self.own() {
            return Some(own);
        }
        let magazine = self.stock.join()?;
        let weak: Weak<Self> = Arc::downgrade(self);
        let address = NonNull::new(Arc::as_ptr(&magazine).cast_mut()).expect("an Arc points to something");
        if !slots::note(&self.id, address.cast(), weak) {
            // SAFETY: the stock gave it to this thread.
            self.stock.leave(magazine.clone(), unsafe { magazine.own() });
            return None;
        }
        self.own()
    }

    /// Takes an object out of the thread's magazine.
    #[inline(always)]
    pub(super) fn take_fast(&self) -> Option<Item<T>> {
        self.own()?.pop(self.stock.gate())
    }

    /// Takes an idle object, or creates one if `create` allows it; `None` if neither is possible.
    #[cold]
    #[inline(never)]
    pub(super) fn take_slow(self: &Arc<Self>, create: bool) -> Option<Item<T>> {
        match self.stock.take(self.own_or_join(), create) {
            Taken::Granted(grant) => Some(self.redeem(grant)),
            Taken::Nothing => None,
        }
    }

    /// Turns a grant into an object: the idle one, or a new one.
    pub(super) fn redeem(self: &Arc<Self>, grant: Grant<Item<T>>) -> Item<T> {
        match grant {
            Grant::Idle(item) => item,
            Grant::Create => self.create(),
        }
    }

    fn create(self: &Arc<Self>) -> Item<T> {
        /// Returns the right to create if the factory panics.
        struct Right<'core, T: Send + 'static>(&'core Core<T>);
        impl<T: Send + 'static> Drop for Right<'_, T> {
            fn drop(&mut self) {
                self.0.stock.lose(Loss::NotCreated);
            }
        }
        let right = Right(self);
        let item = Box::new(Node { core: self.clone(), value: (self.factory)() });
        core::mem::forget(right);
        item
    }

    /// Creates an object that is idle at once. The builder checked that there is room for it.
    pub(super) fn prefill(self: &Arc<Self>) {
        if self.stock.reserve() {
            self.stock.put(None, self.create()).into_iter().for_each(discard);
        }
    }

    pub(super) fn reset(&self, value: &mut T) {
        if let Some(reset) = &self.reset {
            reset(value);
        }
    }
}

/// Gives an object back: resets it and keeps it, or drops it if there is no room.
#[inline]
pub(super) fn give_back<T: Send + 'static>(item: Item<T>) {
    let item = if item.core.reset.is_some() { reset(item) } else { item };
    let core = Arc::as_ptr(&item.core);
    // SAFETY: the object keeps the core alive while it is here. The last access to the magazine ends the visit. Only
    // after that may another thread take the object and, with it, free the core.
    let pushed = unsafe {
        match (*core).own() {
            Some(own) => own.push((*core).stock.gate(), item),
            None => Err(item),
        }
    };
    if let Err(item) = pushed {
        put(item);
    }
}

/// Resets a returned object. If the reset panics, the object is dropped.
fn reset<T: Send + 'static>(item: Item<T>) -> Item<T> {
    struct Spoilt<T: Send + 'static>(Option<Item<T>>);
    impl<T: Send + 'static> Drop for Spoilt<T> {
        fn drop(&mut self) {
            self.0.take().into_iter().for_each(discard);
        }
    }
    let mut spoilt = Spoilt(Some(item));
    if let Some(node) = &mut spoilt.0 {
        let Node { core, value } = &mut **node;
        core.reset(value);
    }
    spoilt.0.take().expect("put there above")
}

#[cold]
#[inline(never)]
fn put<T: Send + 'static>(item: Item<T>) {
    // The core must stay alive: another thread may take the object before the stock's lock is free again.
    let core = item.core.clone();
    if let Some(item) = core.stock.put(core.own_or_join(), item) {
        discard(item);
    }
}

/// Drops an object of the pool, and then frees its place, even if the drop panics.
pub(super) fn discard<T: Send + 'static>(item: Item<T>) {
    struct Place<T: Send + 'static>(Arc<Core<T>>);
    impl<T: Send + 'static> Drop for Place<T> {
        fn drop(&mut self) {
            self.0.stock.lose(Loss::Dropped);
        }
    }
    let _place = Place(item.core.clone());
    drop(item);
}

impl<T: Send + 'static> Home for Core<T> {
    unsafe fn take_back(&self, magazine: NonNull<()>) {
        let magazine: NonNull<Magazine<Item<T>>> = magazine.cast();
        // SAFETY: `own_or_join` noted the address: it is that of a magazine in an `Arc` that the stock holds. The
        // calling thread owns the magazine, and gives it up here.
        unsafe {
            Arc::increment_strong_count(magazine.as_ptr());
            self.stock.leave(Arc::from_raw(magazine.as_ptr()), magazine.as_ref().own());
        }
    }
}
