//! What a program names: the allocator, where it sends each request, and the functions that control the heap.

pub(crate) mod allocator;
pub(crate) mod control;
pub(crate) mod limit;
pub(crate) mod medium;
#[cfg(feature = "__raw")]
pub mod raw;
mod route;
