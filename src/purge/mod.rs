//! Giving memory back on request: the whole heap at once, or step by step while threads are idle.

pub(crate) mod heap;
pub(crate) mod thread;
pub(crate) mod tick;
