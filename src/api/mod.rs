//! The public interface: the allocator, the route of each request, and the functions that control the heap.

pub(crate) mod allocator;
pub(crate) mod control;
pub(crate) mod limit;
pub(crate) mod medium;
#[cfg(feature = "__raw")]
pub mod raw;
mod route;
