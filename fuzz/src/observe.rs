//! The twin of `src/observe/`: there are no observers.

#[derive(Clone, Copy)]
pub(crate) struct Request;

impl Request {
    pub(crate) const fn of_bytes(_bytes: usize) -> Self {
        Self
    }
}

pub(crate) fn allocated(_block: *mut u8, _bytes: usize, _request: Request) {}

pub(crate) fn freed(_block: *mut u8, _bytes: usize) {}

pub(crate) fn arena_mapped() {}
