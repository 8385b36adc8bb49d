//! [`Session`]: tracing that ends when a value is dropped.

use super::record;
use super::record::config::{Config, StartError};

/// Traces allocations until it is dropped; a panic or an early return drops it, too.
///
/// If [`stop`](super::stop) has ended the session already, dropping does nothing: a session that was started later goes
/// on. [`start`](super::start) and [`stop`](super::stop) are for a program that traces from one place of its code to
/// another.
///
/// A forked child goes on tracing. Dropping the child's copy ends tracing in the child only.
///
/// ```
/// # #[global_allocator] static GLOBAL: pymalloc::Pymalloc = pymalloc::Pymalloc::new();
/// use pymalloc::trace::{self, By, Config, Session};
///
/// fn print_top() -> Result<(), Box<dyn std::error::Error>> {
///     let _session = Session::start(Config::new())?;
///     let numbers: Vec<u64> = (0..100).collect();
///     println!("{}", trace::take_snapshot()?.statistics(By::Line).top(10));
///     drop(numbers);
///     Ok(())
/// }
/// print_top()?;
/// assert!(!trace::is_tracing());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "tracing ends when this is dropped"]
pub struct Session {
    number: u32,
}

impl Session {
    /// Starts tracing.
    ///
    /// # Errors
    /// As for [`start`](super::start).
    #[doc(alias = "tracemalloc.start")]
    pub fn start(config: Config) -> Result<Self, StartError> {
        record::start(config).map(|number| Self { number })
    }

    /// Stops tracing and forgets all blocks, as dropping does.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        record::session::stop_if(|number| number == self.number);
    }
}
