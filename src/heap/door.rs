//! Proof that a door is held, at no cost: what is behind it can be touched only by who shows it.

use core::cell::Cell;
use core::marker::PhantomData;

use super::stop::Stopped;

/// Proof that the calling thread holds the door of a pool set, or has stopped the slow paths and so holds all of them.
///
/// It does not say whose door: to ask a cache for its door, and to touch that cache, stays with the caller.
#[derive(Clone, Copy)]
pub(crate) struct Door<'held>(PhantomData<(&'held (), *const ())>);

impl Door<'_> {
    /// # Safety
    /// The calling thread holds the door as long as the value lives, or nobody else knows yet of what is behind it.
    #[inline(always)]
    pub(crate) const unsafe fn held() -> Self {
        Self(PhantomData)
    }
}

impl Stopped<'_> {
    /// Any door of the heap: none can be opened by another thread meanwhile.
    pub(crate) fn door(&self) -> Door<'_> {
        // SAFETY: this thread holds every door, until the token is dropped.
        unsafe { Door::held() }
    }
}

#[cfg(test)]
impl super::set::Pools {
    /// The door that guards them: who sees them holds it.
    pub(crate) fn door(&self) -> Door<'_> {
        // SAFETY: nobody sees them without.
        unsafe { Door::held() }
    }
}

/// A value behind a door. Zeroed memory is a valid one if it is for the value.
#[repr(transparent)]
pub(crate) struct DoorCell<T>(Cell<T>);

impl<T> DoorCell<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(Cell::new(value))
    }

    #[inline(always)]
    pub(crate) fn get(&self, _door: Door<'_>) -> T
    where
        T: Copy,
    {
        self.0.get()
    }

    #[inline(always)]
    pub(crate) fn set(&self, _door: Door<'_>, value: T) {
        self.0.set(value);
    }

    #[inline(always)]
    pub(crate) fn replace(&self, _door: Door<'_>, value: T) -> T {
        self.0.replace(value)
    }
}
