//! Proof that a door is held, at no cost: data behind the door can be touched only with that proof.

use core::cell::Cell;
use core::marker::PhantomData;

use super::stop::Stopped;

/// Proof that the calling thread holds the door of a pool set, or has stopped the slow paths and so holds all of them.
///
/// It does not say which door. The caller sees to it that it is the door of the cache that it touches.
#[derive(Clone, Copy)]
pub(crate) struct Door<'held>(PhantomData<(&'held (), *const ())>);

impl Door<'_> {
    /// # Safety
    /// The calling thread holds the door as long as the value lives, or no other thread knows the data behind it yet.
    #[inline(always)]
    pub(crate) const unsafe fn held() -> Self {
        Self(PhantomData)
    }
}

impl Stopped<'_> {
    /// Proof for any door of the heap: no other thread can open one meanwhile.
    pub(crate) fn door(&self) -> Door<'_> {
        // SAFETY: this thread holds every door, until the token is dropped.
        unsafe { Door::held() }
    }
}

#[cfg(test)]
impl super::set::Pools {
    /// Proof for the door that guards them: a thread that sees them holds it.
    pub(crate) fn door(&self) -> Door<'_> {
        // SAFETY: no thread sees them without it.
        unsafe { Door::held() }
    }
}

/// A value behind a door. Zeroed memory is valid if it is a valid `T`.
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
