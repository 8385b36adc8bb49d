//! Purges, which give free memory back to the OS on request: [`purge()`](crate::purge()) purges the whole heap at once;
//! a [`PurgeThread`] purges step by step while threads are idle.
//!
//! ```
//! # #[global_allocator] static GLOBAL: pymalloc::Pymalloc = pymalloc::Pymalloc::new();
//! use pymalloc::purge::{PurgeConfig, PurgeThread};
//!
//! # fn main() -> std::io::Result<()> {
//! let purging = PurgeThread::start(PurgeConfig::new())?;
//! let bytes = pymalloc::purge(); // at once, without the thread
//! println!("{bytes} bytes went back to the OS");
//! purging.stop();
//! # Ok(())
//! # }
//! ```

pub(crate) mod heap;
pub(crate) mod thread;
pub(crate) mod tick;

pub use thread::{PurgeConfig, PurgeThread};
