//! Purges, which give free memory back to the OS on request: [`purge()`](crate::purge()) purges the whole heap at once;
//! a [`PurgeThread`] purges step by step while threads are idle.

pub(crate) mod heap;
pub(crate) mod thread;
pub(crate) mod tick;

pub use thread::{PurgeConfig, PurgeThread};
