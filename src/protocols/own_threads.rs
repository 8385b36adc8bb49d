//! The places of the allocator's own threads (`own_thread`), in this process.

use core::ffi::CStr;
use core::fmt;

#[cfg(feature = "graph")]
use super::own_thread::{Place, Resting, Worker};
use crate::os::OwnThread;
#[cfg(feature = "graph")]
use crate::os::{fork, thread_id};
#[cfg(feature = "graph")]
use crate::sync::this_thread_forks;

/// The most such threads at once: a purge thread, a server, a sampler and the preload library's, with room for those
/// that have not quite ended. No graph stops a thread that found no place; its error names it.
#[cfg(feature = "graph")]
pub(crate) const PLACES: usize = 16;
#[cfg(feature = "graph")]
static OWN_THREADS: [Place; PLACES] = [const { Place::new() }; PLACES];

/// The number of this process, among its ancestors and descendants; not 0.
#[cfg(feature = "graph")]
fn process() -> u32 {
    fork::generation().wrapping_add(1).max(1)
}

/// The calling thread, which is the allocator's own, while it works.
#[cfg_attr(not(feature = "__raw"), allow(unreachable_pub, reason = "the preload library's, too"))]
pub struct AtWork {
    #[cfg(feature = "graph")]
    worker: Worker<'static>,
}

#[cfg_attr(not(feature = "__raw"), allow(unreachable_pub, reason = "the preload library's, too"))]
impl AtWork {
    /// What such a thread calls first. It gives the thread a name of at most 15 bytes, for debuggers.
    pub fn begin(name: &CStr) -> Self {
        OwnThread::name_this(name);
        Self {
            #[cfg(feature = "graph")]
            worker: {
                let here = 0_usize;
                Place::take(&OWN_THREADS, process(), thread_id(), (&raw const here).addr())
            },
        }
    }

    /// Runs `body`, which only waits: meanwhile a graph of the heap can be taken.
    pub fn rest<R>(&mut self, body: impl FnOnce() -> R) -> R {
        #[cfg(feature = "graph")]
        return self.worker.rest(body);
        #[cfg(not(feature = "graph"))]
        body()
    }
}

impl fmt::Debug for AtWork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AtWork").finish_non_exhaustive()
    }
}

/// Whether the thread with this number is the allocator's own.
#[cfg(feature = "graph")]
pub(crate) fn is_own(thread: u32) -> bool {
    OWN_THREADS.iter().any(|place| place.thread(process()) == Some(thread))
}

/// The allocator's other own threads, at rest until this is dropped.
#[cfg(feature = "graph")]
pub(crate) struct OwnThreadsRest([Option<Resting<'static>>; PLACES]);

#[cfg(feature = "graph")]
impl OwnThreadsRest {
    /// Waits until all of them rest; `None` in a fork. The calling thread holds no lock of the crate.
    pub(crate) fn wait() -> Option<Self> {
        // In a fork, locks let the thread through.
        let (process, own) = (process(), thread_id());
        (!this_thread_forks()).then(|| Self(OWN_THREADS.each_ref().map(|place| place.hold(process, own))))
    }

    /// An address on the stack of the thread with this number, if it is one of them.
    pub(crate) fn stack_of(&self, thread: u32) -> Option<usize> {
        self.0.iter().flatten().find(|resting| resting.thread == thread).map(|resting| resting.stack)
    }
}
