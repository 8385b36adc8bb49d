//! Stopping all slow paths, by every lock there is: for a fork, and to look at the whole heap.

use core::ptr::NonNull;

use super::{Heap, HeapState};
use crate::pool_set::PoolSet;

/// How far the slow paths are stopped.
pub(super) struct Stopped {
    /// The newest set whose door was taken; those made since were not there.
    newest: Option<NonNull<PoolSet>>,
}

// SAFETY: a plain pointer to a set, which is never unmapped.
unsafe impl Send for Stopped {}

impl Stopped {
    pub(super) const fn new() -> Self {
        Self { newest: None }
    }
}

impl Heap {
    /// Takes every lock of the heap: afterwards no thread is on a slow path, and none enters one.
    ///
    /// After `true`, undone by [`restart_slow_paths`](Self::restart_slow_paths) on the same thread (or in its forked
    /// child); `false` when the calling thread forks, and so had them stopped before: then don't restart.
    #[must_use]
    pub(crate) fn stop_slow_paths(&self) -> bool {
        if !self.stop.acquire() {
            return false;
        }
        let mut stopped = None;
        loop {
            let mut sets = self.sets().peekable();
            let newest = sets.peek().copied();
            for set in sets.take_while(|&set| Some(set) != stopped) {
                // SAFETY: sets are never unmapped.
                unsafe { set.as_ref() }.door.acquire();
            }
            stopped = newest;
            self.state.acquire();
            if self.sets().next() == stopped {
                // SAFETY: taken above, and nobody else looks at it.
                unsafe { self.stop.with_held(|stop| stop.newest = stopped) };
                return true;
            }
            // A set made in between is not stopped yet.
            // SAFETY: taken just above.
            unsafe { self.state.release() };
        }
    }

    /// Undoes [`stop_slow_paths`](Self::stop_slow_paths).
    ///
    /// # Safety
    /// The calling thread stopped the slow paths, or forked from the one that did.
    pub(crate) unsafe fn restart_slow_paths(&self) {
        // The register's lock comes last but one: until then no set can come that was not stopped. Those that the
        // forking thread itself made meanwhile are newer than the newest stopped.
        // SAFETY: the caller holds all of them.
        unsafe {
            let newest = self.stop.with_held(|stop| stop.newest.take());
            for set in self.sets().skip_while(|&set| Some(set) != newest) {
                set.as_ref().door.release();
            }
            self.state.release();
            self.stop.release();
        }
    }

    /// Runs `body` on what the lock guards, while the calling thread has stopped the slow paths.
    ///
    /// # Safety
    /// The calling thread stopped the slow paths, and no other reference to the state is live.
    pub(crate) unsafe fn with_stopped_state<R>(&self, body: impl FnOnce(&mut HeapState) -> R) -> R {
        // SAFETY: the caller holds the lock.
        unsafe { self.state.with_held(body) }
    }
}
