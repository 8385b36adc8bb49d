//! Fork: the handlers around every `fork` of the process, and the parts of the crate that hold locks meanwhile.
//!
//! # Protocol
//! - *prepare* (in the forking thread): each participant takes its locks, in the order of [`ForkPlace`], which is the
//!   order of all locks of the crate.
//! - Handlers of others that run between ours and the fork may allocate: locks admit the forking thread. They must not
//!   wait for another thread that may be waiting for the allocator; ours are registered before `main`, so that only
//!   handlers registered even earlier run in between.
//! - *parent* and *child*: the participants let go, in the opposite order. A participant that joined meanwhile holds
//!   nothing and is left out.
//!
//! A handler of others that itself forks, in between, finds the locks taken; they stay so until the outer fork ends.
//!
//! `_Fork`, `vfork` and raw `clone` run no handlers: a child that shares memory or only calls `exec` is fine; a child
//! of `_Fork` in a program with many threads must not allocate. A `fork` in a signal handler that interrupted the
//! allocator would wait for itself: don't.

use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering};

use super::{on_fork, thread_token};

/// A part of the crate that holds locks over a fork.
pub(crate) struct Participant {
    /// Takes the locks.
    pub(crate) prepare: fn(),
    /// Lets go of them, in the parent.
    pub(crate) parent: fn(),
    /// Lets go of them, in the child, where no other thread exists.
    pub(crate) child: fn(),
}

/// The participants, in the order in which they take their locks.
#[derive(Clone, Copy)]
pub(crate) enum ForkPlace {
    #[cfg(feature = "trace")]
    TraceSession = 0,
    Debug = 1,
    Heap = 2,
    #[cfg(feature = "trace")]
    TraceTables = 3,
}

const PLACES: usize = 4;

/// Who takes part; null where nobody does.
static PARTICIPANTS: [AtomicPtr<Participant>; PLACES] = [const { AtomicPtr::new(ptr::null_mut()) }; PLACES];
/// Those of them that took their locks for the fork under way; the forking thread's own.
static PREPARED: [AtomicPtr<Participant>; PLACES] = [const { AtomicPtr::new(ptr::null_mut()) }; PLACES];

/// The thread that is between prepare and parent or child; 0 when there is none.
static FORKING: AtomicUsize = AtomicUsize::new(0);

/// Forks between the first process and this one.
static GENERATION: AtomicU32 = AtomicU32::new(0);

/// Forks that another's handler began after our `prepare` of the outer fork; the forking thread's own number.
static NESTED: AtomicU32 = AtomicU32::new(0);

/// Whether the calling thread holds all locks for a fork.
#[inline]
pub(crate) fn this_thread_forks() -> bool {
    // Relaxed: a thread sees its own store; any other value, new or old, is another thread's.
    let forking = FORKING.load(Ordering::Relaxed);
    forking != 0 && forking == thread_token()
}

/// A number that differs between a process and each of its forked ancestors.
pub(crate) fn generation() -> u32 {
    // Relaxed: changes only in a child that has one thread.
    GENERATION.load(Ordering::Relaxed)
}

/// Makes `participant` take part in every fork from now on. The first call registers the handlers.
///
/// A participant joins before any of its locks is taken for the first time.
#[cfg_attr(target_os = "linux", unsafe(link_section = ".text_pymalloc"))]
pub(crate) fn join(place: ForkPlace, participant: &'static Participant) {
    // Relaxed: the participant is a constant, and the pointer alone is published.
    PARTICIPANTS[place as usize].store(ptr::from_ref(participant).cast_mut(), Ordering::Relaxed);
    watch();
}

/// Registers the handlers, the first time.
fn watch() {
    static WATCHED: AtomicU32 = AtomicU32::new(0);
    // Relaxed: a flag alone; libc synchronises its list of handlers.
    if WATCHED.load(Ordering::Relaxed) == 0
        && WATCHED.compare_exchange(0, 1, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    {
        // No memory for the registration: the program runs, but must not fork with threads.
        on_fork(prepare, in_parent, in_child);
    }
}

unsafe extern "C" fn prepare() {
    if this_thread_forks() {
        // Relaxed: as in `this_thread_forks`.
        NESTED.fetch_add(1, Ordering::Relaxed);
        return;
    }
    for (participant, prepared) in PARTICIPANTS.iter().zip(&PREPARED) {
        // Relaxed (both): constants behind them; the second list is this thread's own.
        let participant = participant.load(Ordering::Relaxed);
        prepared.store(participant, Ordering::Relaxed);
        // SAFETY: null, or a participant, which lives as long as the program.
        if let Some(participant) = unsafe { participant.as_ref() } {
            (participant.prepare)();
        }
    }
    // Relaxed: as in `this_thread_forks`.
    FORKING.store(thread_token(), Ordering::Relaxed);
}

/// Whether it was a nested fork that ended: the outer one holds the locks on, in its parent and in its child.
fn ends_nested() -> bool {
    // Relaxed (both): as in `this_thread_forks`.
    let nested = NESTED.load(Ordering::Relaxed);
    if nested != 0 {
        NESTED.store(nested - 1, Ordering::Relaxed);
    }
    nested != 0
}

/// Ends a fork: calls one function of each participant that took its locks.
fn let_go(function: impl Fn(&Participant) -> fn()) {
    if ends_nested() {
        return;
    }
    // Relaxed: as in `this_thread_forks`.
    FORKING.store(0, Ordering::Relaxed);
    for prepared in PREPARED.iter().rev() {
        // Relaxed: written by this thread, or by the one that it is a copy of.
        // SAFETY: null, or a participant, which lives as long as the program.
        if let Some(participant) = unsafe { prepared.load(Ordering::Relaxed).as_ref() } {
            function(participant)();
        }
    }
}

/// All locks of the crate, held as for a fork; freed when dropped, on the same thread.
#[cfg(feature = "graph")]
pub(crate) struct AllLocks(core::marker::PhantomData<*const ()>);

#[cfg(feature = "graph")]
impl AllLocks {
    /// Takes them all; `None` if the calling thread forks, and so has them.
    pub(crate) fn take() -> Option<Self> {
        if this_thread_forks() {
            return None;
        }
        // SAFETY: the handler is a function as any other.
        unsafe { prepare() };
        Some(Self(core::marker::PhantomData))
    }
}

#[cfg(feature = "graph")]
impl Drop for AllLocks {
    fn drop(&mut self) {
        let_go(|participant| participant.parent);
    }
}

unsafe extern "C" fn in_parent() {
    let_go(|participant| participant.parent);
}

unsafe extern "C" fn in_child() {
    // Relaxed: as in `generation`.
    GENERATION.fetch_add(1, Ordering::Relaxed);
    let_go(|participant| participant.child);
}
