//! The twin of `src/sync.rs`: before each access to an atomic, the scheduler may let another thread run.

use core::cell::Cell;
pub(crate) use core::sync::atomic::Ordering;
use core::sync::atomic::{self, Ordering::SeqCst};

use crate::scheduler::{self, Kind, point};

/// One spin only, so that a thread soon sleeps.
pub(crate) const LOCK_SPINS: u32 = 1;

pub(crate) use crate::os::fork::this_thread_forks;

/// The name of a lock's holder, which is not needed: there are no signals.
pub(crate) struct Owner;

impl Owner {
    pub(crate) const fn new() -> Self {
        Self
    }

    pub(crate) fn set(&self) {}

    pub(crate) fn clear(&self) {}

    pub(crate) fn refuse_this_thread(&self) {}
}

pub(crate) fn spin_loop() {}

macro_rules! integer {
    ($name:ident, $value:ty) => {
        /// The atomic of `core`, with a point before each access. Like that, it is valid when zeroed.
        #[repr(transparent)]
        pub(crate) struct $name(atomic::$name);

        impl $name {
            pub(crate) const fn new(value: $value) -> Self {
                Self(atomic::$name::new(value))
            }

            pub(crate) fn load(&self, _: Ordering) -> $value {
                point(Kind::Access);
                self.0.load(SeqCst)
            }

            pub(crate) fn store(&self, value: $value, _: Ordering) {
                point(Kind::Access);
                self.0.store(value, SeqCst);
            }

            pub(crate) fn swap(&self, value: $value, _: Ordering) -> $value {
                point(Kind::Exchange);
                self.0.swap(value, SeqCst)
            }

            pub(crate) fn compare_exchange(
                &self,
                old: $value,
                new: $value,
                _: Ordering,
                _: Ordering,
            ) -> Result<$value, $value> {
                point(Kind::Exchange);
                self.0.compare_exchange(old, new, SeqCst, SeqCst)
            }

            pub(crate) fn compare_exchange_weak(
                &self,
                old: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                // Not the weak form of `core`, whose failures would not repeat.
                self.compare_exchange(old, new, success, failure)
            }

            pub(crate) fn fetch_add(&self, value: $value, _: Ordering) -> $value {
                point(Kind::Exchange);
                self.0.fetch_add(value, SeqCst)
            }

            pub(crate) fn fetch_sub(&self, value: $value, _: Ordering) -> $value {
                point(Kind::Exchange);
                self.0.fetch_sub(value, SeqCst)
            }

            pub(crate) fn fetch_or(&self, value: $value, _: Ordering) -> $value {
                point(Kind::Exchange);
                self.0.fetch_or(value, SeqCst)
            }
        }
    };
}

integer!(AtomicU32, u32);
integer!(AtomicU64, u64);
integer!(AtomicUsize, usize);

/// A load of a word by its only writer, or under the lock that all writers hold.
pub(crate) fn load_own(word: &AtomicUsize) -> usize {
    word.load(Ordering::Relaxed)
}

/// The atomic of `core`, with a point before each access. Like that, it is valid when zeroed.
#[repr(transparent)]
pub(crate) struct AtomicPtr<T>(atomic::AtomicPtr<T>);

impl<T> AtomicPtr<T> {
    pub(crate) const fn as_ptr(&self) -> *mut *mut T {
        self.0.as_ptr()
    }

    pub(crate) const fn new(value: *mut T) -> Self {
        Self(atomic::AtomicPtr::new(value))
    }

    pub(crate) fn load(&self, _: Ordering) -> *mut T {
        point(Kind::Access);
        self.0.load(SeqCst)
    }

    pub(crate) fn store(&self, value: *mut T, _: Ordering) {
        point(Kind::Access);
        self.0.store(value, SeqCst);
    }

    pub(crate) fn swap(&self, value: *mut T, _: Ordering) -> *mut T {
        point(Kind::Exchange);
        self.0.swap(value, SeqCst)
    }

    pub(crate) fn compare_exchange(
        &self,
        old: *mut T,
        new: *mut T,
        _: Ordering,
        _: Ordering,
    ) -> Result<*mut T, *mut T> {
        point(Kind::Exchange);
        self.0.compare_exchange(old, new, SeqCst, SeqCst)
    }

    pub(crate) fn compare_exchange_weak(
        &self,
        old: *mut T,
        new: *mut T,
        success: Ordering,
        failure: Ordering,
    ) -> Result<*mut T, *mut T> {
        // Not the weak form of `core`, whose failures would not repeat.
        self.compare_exchange(old, new, success, failure)
    }
}

/// Sleeps while `*word == expected`, until [`futex_wake`].
pub(crate) fn futex_wait(word: &AtomicU32, expected: u32) {
    point(Kind::Exchange);
    if word.0.load(SeqCst) == expected {
        scheduler::sleep(core::ptr::from_ref(word).addr());
    }
}

/// Wakes one thread that sleeps on `word`.
pub(crate) fn futex_wake(word: &AtomicU32) {
    point(Kind::Exchange);
    scheduler::wake(core::ptr::from_ref(word).addr());
}

/// A cell that notices two threads inside at once.
pub(crate) struct UnsafeCell<T> {
    inside: Cell<bool>,
    value: core::cell::UnsafeCell<T>,
}

impl<T> UnsafeCell<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self { inside: Cell::new(false), value: core::cell::UnsafeCell::new(value) }
    }

    pub(crate) fn with_mut<R>(&self, body: impl FnOnce(*mut T) -> R) -> R {
        assert!(!self.inside.replace(true), "two threads in what one lock guards");
        let result = body(self.value.get());
        self.inside.set(false);
        result
    }
}
