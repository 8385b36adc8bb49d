//! What the slow path, the large path and the fork handlers tell an observer of the heap.
//!
//! With the feature `trace` that is the tracer. Without it every function here is empty, [`Request`] has no size, and
//! nothing is left of either in the program.

#[cfg(feature = "trace")]
pub(crate) use crate::trace::hook::{
    Request, after_restart, after_stop, allocated, before_restart, before_stop, freed, is_on, moving, not_moved,
};

#[cfg(not(feature = "trace"))]
pub(crate) use nobody::{
    Request, after_restart, after_stop, allocated, before_restart, before_stop, freed, is_on, moving, not_moved,
};

#[cfg(not(feature = "trace"))]
mod nobody {
    use core::alloc::Layout;

    #[derive(Clone, Copy)]
    pub(crate) struct Request;

    impl Request {
        #[inline(always)]
        pub(crate) const fn of(_layout: Layout) -> Self {
            Self
        }

        #[inline(always)]
        pub(crate) const fn of_bytes(_bytes: usize) -> Self {
            Self
        }
    }

    #[inline(always)]
    pub(crate) const fn is_on() -> bool {
        false
    }

    #[inline(always)]
    pub(crate) const fn allocated(_block: *mut u8, _request: Request) {}

    #[inline(always)]
    pub(crate) const fn freed(_block: *mut u8) {}

    pub(crate) struct Moving;

    #[inline(always)]
    pub(crate) const fn moving(_block: *mut u8) -> Moving {
        Moving
    }

    #[inline(always)]
    pub(crate) const fn not_moved(_block: *mut u8, _moving: Moving) {}

    #[inline(always)]
    pub(crate) const fn before_stop() {}

    #[inline(always)]
    pub(crate) const fn after_stop() {}

    /// # Safety
    /// None: there is nobody.
    #[inline(always)]
    pub(crate) const unsafe fn before_restart() {}

    /// # Safety
    /// None: there is nobody.
    #[inline(always)]
    pub(crate) const unsafe fn after_restart() {}
}
