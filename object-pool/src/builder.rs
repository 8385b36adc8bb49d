//! The builder of pools, and its errors.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use super::objects::{Core, Reset};
use super::pool::ObjectPool;
use super::stock::Limits;
use super::sync::MAGAZINE_MAX;

/// A builder of an [`ObjectPool`], from [`ObjectPool::builder`].
#[must_use = "a builder builds nothing by itself"]
pub struct PoolBuilder<T: Send + 'static> {
    factory: Box<dyn Fn() -> T + Send + Sync>,
    reset: Option<Reset<T>>,
    limits: Limits,
    prefill: usize,
}

impl<T: Send + 'static> PoolBuilder<T> {
    pub(super) fn new(factory: Box<dyn Fn() -> T + Send + Sync>) -> Self {
        let limits = Limits { max_idle: usize::MAX, max_total: usize::MAX, magazine: MAGAZINE_MAX };
        Self { factory, reset: None, limits, prefill: 0 }
    }

    /// Sets a function that runs on each released object before it becomes idle.
    pub fn reset(mut self, reset: impl Fn(&mut T) + Send + Sync + 'static) -> Self {
        self.reset = Some(Box::new(reset));
        self
    }

    /// Limits the idle objects, those in threads' magazines included, to `objects`; further ones are dropped. By
    /// default there is no limit. With 0, no object is kept.
    pub fn max_idle(mut self, objects: usize) -> Self {
        self.limits.max_idle = objects;
        self
    }

    /// Limits all objects, idle and in use, to `objects`. When all are in use, [`ObjectPool::acquire`] waits. By
    /// default there is no limit, and no thread ever waits.
    pub fn max_total(mut self, objects: usize) -> Self {
        self.limits.max_total = objects;
        self
    }

    /// Makes the pool start with this number of objects.
    pub fn prefill(mut self, objects: usize) -> Self {
        self.prefill = objects;
        self
    }

    /// Limits the idle objects in each thread's magazine to `objects`. Other threads take those only if they must. The
    /// default is 64, which is also the maximum; a magazine begins with room for 8 and grows with use. With 0, all idle
    /// objects are in the shared stock: that is slower, but no object is created while another is idle.
    pub fn magazine(mut self, objects: usize) -> Self {
        self.limits.magazine = objects;
        self
    }

    /// Builds the pool.
    ///
    /// # Errors
    /// If the limits contradict each other.
    ///
    /// ```
    /// # use pymalloc_object_pool::{ObjectPool, PoolConfigError};
    /// let wrong = ObjectPool::builder(String::new).max_idle(5).prefill(10).build();
    /// assert_eq!(wrong.unwrap_err(), PoolConfigError::PrefillTooLarge { prefill: 10, limit: 5 });
    /// ```
    pub fn build(self) -> Result<ObjectPool<T>, PoolConfigError> {
        let Limits { max_idle, max_total, magazine } = self.limits;
        if max_total == 0 {
            return Err(PoolConfigError::NoObjects);
        }
        if magazine > MAGAZINE_MAX {
            return Err(PoolConfigError::MagazineTooLarge { magazine, limit: MAGAZINE_MAX });
        }
        check_prefill(self.prefill, max_idle.min(max_total))?;
        let core = Arc::new(Core::new(self.factory, self.reset, self.limits));
        let pool = ObjectPool::from_core(core.clone());
        for _ in 0..self.prefill {
            core.prefill();
        }
        Ok(pool)
    }
}

pub(super) fn check_prefill(prefill: usize, limit: usize) -> Result<(), PoolConfigError> {
    if prefill > limit { Err(PoolConfigError::PrefillTooLarge { prefill, limit }) } else { Ok(()) }
}

impl<T: Send + 'static> fmt::Debug for PoolBuilder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolBuilder")
            .field("limits", &self.limits)
            .field("prefill", &self.prefill)
            .finish_non_exhaustive()
    }
}

/// The error of building a pool: its limits contradict each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum PoolConfigError {
    /// `max_total` is 0: every acquisition would wait for ever.
    NoObjects,
    /// `prefill` is larger than `max_idle` or `max_total`.
    PrefillTooLarge {
        /// Objects to start with.
        prefill: usize,
        /// The smaller of `max_idle` and `max_total`.
        limit: usize,
    },
    /// `magazine` is larger than the maximum.
    MagazineTooLarge {
        /// Objects asked for.
        magazine: usize,
        /// The most objects that a magazine can hold.
        limit: usize,
    },
}

impl fmt::Display for PoolConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoObjects => f.write_str("max_total is 0, so the pool could never have an object"),
            Self::PrefillTooLarge { prefill, limit } => {
                write!(f, "prefill of {prefill} objects, where the limits allow {limit} idle ones")
            }
            Self::MagazineTooLarge { magazine, limit } => {
                write!(f, "magazines of {magazine} objects, where one holds at most {limit}")
            }
        }
    }
}

impl Error for PoolConfigError {}
