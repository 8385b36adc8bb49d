//! Stopping all slow paths by taking every lock: for a fork, and for a look at the whole heap.

use core::marker::PhantomData;
use core::mem::ManuallyDrop;
use core::ptr::NonNull;

use super::set::{PoolSet, Pools};
use super::{Heap, HeapState};
use crate::protocols::lock::Entry;
use crate::sync::Ordering;

/// Proof that the calling thread has stopped the slow paths of a heap: no thread is on one, and none enters one.
///
/// They go on when it is dropped. Nothing can be allocated from the heap meanwhile, unless the thread forks.
pub(crate) struct Stopped<'heap> {
    heap: &'heap Heap,
    /// `false` if the calling thread is in a fork, for which it had stopped them before.
    owns: bool,
    /// Answers the knocks that were found.
    answer: fn(&Heap),
    /// Locks belong to a thread.
    _not_send: PhantomData<*const ()>,
}

impl Heap {
    /// `Heap::stop`, with the function that answers knocks: threads may knock at doors that the stop holds.
    #[must_use]
    pub(crate) fn stop_and_answer(&self, answer: fn(&Heap)) -> Stopped<'_> {
        Stopped { heap: self, owns: self.stop_slow_paths(), answer, _not_send: PhantomData }
    }

    /// `false` if the calling thread is in a fork, for which it had stopped them before.
    fn stop_slow_paths(&self) -> bool {
        if !self.stop.acquire() {
            return false;
        }
        loop {
            for set in self.sets() {
                // SAFETY: sets are never unmapped.
                let set = unsafe { set.as_ref() };
                // Relaxed: only the thread that holds `stop` writes it.
                if set.is_stopped.load(Ordering::Relaxed) == 0 && set.door.acquire_if_open() != Entry::Refused {
                    set.is_stopped.store(1, Ordering::Relaxed);
                }
            }
            self.state.acquire();
            // SAFETY: sets are never unmapped. Relaxed: as above.
            if self.sets().all(|set| unsafe { set.as_ref() }.is_stopped.load(Ordering::Relaxed) != 0) {
                return true;
            }
            // A set that was made or adopted in between is not stopped yet.
            // SAFETY: taken just above.
            unsafe { self.state.release() };
        }
    }

    /// Returns `true` if a thread knocked at a door meanwhile. Then the caller has to answer.
    ///
    /// # Safety
    /// The calling thread stopped the slow paths, or is, in a forked child, the copy of the thread that did.
    unsafe fn restart_slow_paths(&self) -> bool {
        let mut knocked = false;
        // The heap's lock is released last but one. Until then no set can come that was not stopped, unless the forking
        // thread itself made or adopted it meanwhile.
        // SAFETY: the caller holds all of them.
        unsafe {
            for set in self.sets() {
                let set = set.as_ref();
                // Relaxed: only the thread that holds `stop` writes it. A store only where something changes: in a
                // forked child, each write copies an OS page.
                if set.is_stopped.load(Ordering::Relaxed) != 0 {
                    set.is_stopped.store(0, Ordering::Relaxed);
                    knocked |= set.door.leave();
                }
            }
            self.state.release();
            self.stop.release();
        }
        knocked
    }
}

impl<'heap> Stopped<'heap> {
    /// The heap.
    pub(crate) fn heap(&self) -> &'heap Heap {
        self.heap
    }

    /// Leaves the slow paths stopped, for [`resume`](Self::resume).
    pub(crate) fn leave_stopped(self) {
        debug_assert!(self.owns, "a thread forks once at a time");
        let _ = ManuallyDrop::new(self);
    }

    /// Takes up what [`leave_stopped`](Self::leave_stopped) left; `answer` is as in `stop_and_answer`.
    ///
    /// # Safety
    /// The calling thread left the slow paths of `heap` stopped, or is, in a forked child, the copy of the thread that
    /// did.
    pub(crate) unsafe fn resume(heap: &'heap Heap, answer: fn(&Heap)) -> Self {
        Self { heap, owns: true, answer, _not_send: PhantomData }
    }

    /// Runs `body` on the data that the heap's lock guards.
    pub(crate) fn with_state<R>(&mut self, body: impl FnOnce(&mut HeapState) -> R) -> R {
        // SAFETY: this thread holds the lock, and the exclusive reference to the token keeps `body` from a second call.
        unsafe { self.heap.state.with_held(body) }
    }

    /// Runs `body` on the pools of `set`, a set of the heap.
    pub(crate) fn with_pools<R>(&mut self, set: NonNull<PoolSet>, body: impl FnOnce(&mut Pools) -> R) -> R {
        // SAFETY: sets are never unmapped. This thread holds all doors that are not shut, and the heap's lock, without
        // which no shut door is opened (*Stopped*). Otherwise as in `with_state`.
        unsafe { set.as_ref().door.with_held(body) }
    }
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        if self.owns {
            // SAFETY: the slow paths were stopped when this was made: by this thread or, in a forked child, by the
            // thread that it is a copy of.
            let knocked = unsafe { self.heap.restart_slow_paths() };
            if knocked {
                (self.answer)(self.heap);
            }
        }
    }
}
