//! The tracer's part of the seam, without the feature `trace`: nothing is left of it in the program.

use super::Owner;

/// What the program asked for, which nobody wants to know.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request;

impl Request {
    #[inline(always)]
    pub(crate) const fn of_bytes(_bytes: usize) -> Self {
        Self
    }
}

#[inline(always)]
pub(super) const fn allocated(_block: *mut u8, _request: Request) -> Owner {
    Owner::Program
}

#[inline(always)]
pub(super) const fn freed(_block: *mut u8) -> Owner {
    Owner::Program
}

pub(super) struct Moving;

#[inline(always)]
pub(super) const fn moving(_block: *mut u8) -> Moving {
    Moving
}

#[inline(always)]
pub(super) const fn owner(_moving: &Moving) -> Owner {
    Owner::Program
}

#[inline(always)]
pub(super) const fn not_moved(_block: *mut u8, _moving: Moving) {}

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
