//! Giving memory back on request: the whole heap at once by [`purge()`](crate::purge()), or step by step while threads
//! are idle, by a [`PurgeThread`].

pub(crate) mod heap;
pub(crate) mod thread;
pub(crate) mod tick;

pub use thread::{PurgeConfig, PurgeThread};
