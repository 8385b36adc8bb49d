//! Fork: the handlers around every `fork` of the process, and the parts of the crate that hold locks meanwhile.
//!
//! # Protocol
//! - *prepare* (in the forking thread): each participant takes its locks, in the order of [`ForkPlace`], which is the
//!   order of all locks of the crate.
//! - Handlers of other code that run between ours and the fork may allocate, because locks admit the forking thread.
//!   They must not wait for a thread that may be waiting for the allocator. Ours are registered before `main`, so that
//!   only handlers registered even earlier run in between.
//! - *parent* and *child*: the participants release their locks, in the reverse order. A participant that joined
//!   meanwhile holds nothing and is left out.
//!
//! A handler of other code may itself fork in between. It finds the locks taken; they stay so until the outer fork
//! ends.
//!
//! `_Fork`, `vfork` and raw `clone` run no handlers. A child that shares memory or only calls `exec` is fine. A child
//! of `_Fork` in a program with many threads must not allocate. A signal handler that interrupted the allocator must
//! not `fork`: it would wait for itself.

use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering};

use super::{on_fork, thread_token};

/// A part of the crate that holds locks over a fork.
pub(crate) struct Participant {
    /// Takes the locks.
    pub(crate) prepare: fn(),
    /// Releases them, in the parent.
    pub(crate) parent: fn(),
    /// Releases them, in the child, where no other thread exists.
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

/// The participants by their places; null where there is none.
static PARTICIPANTS: [AtomicPtr<Participant>; PLACES] = [const { AtomicPtr::new(ptr::null_mut()) }; PLACES];
/// The participants that took their locks for the fork under way. Only the forking thread uses it.
static PREPARED: [AtomicPtr<Participant>; PLACES] = [const { AtomicPtr::new(ptr::null_mut()) }; PLACES];

/// The thread that is between *prepare* and *parent* or *child*; 0 when there is none.
static FORKING: AtomicUsize = AtomicUsize::new(0);

/// Forks between the first process and this one.
static GENERATION: AtomicU32 = AtomicU32::new(0);

/// Forks that a handler of other code began after our `prepare` of the outer fork. Only the forking thread uses it.
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
        // If there is no memory for the registration, the program runs, but must not fork while it has threads.
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
        // Relaxed (both): participants are constants, and only this thread uses the second list.
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

/// Whether the fork that ended was a nested one. Then the outer fork still holds the locks, in its parent and in its
/// child.
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
        // Relaxed: written by this thread or, in a forked child, by the thread that it is a copy of.
        // SAFETY: null, or a participant, which lives as long as the program.
        if let Some(participant) = unsafe { prepared.load(Ordering::Relaxed).as_ref() } {
            function(participant)();
        }
    }
}

/// All locks of the crate, held as for a fork. They are released when this is dropped, on the same thread.
#[cfg(feature = "graph")]
pub(crate) struct AllLocks(core::marker::PhantomData<*const ()>);

#[cfg(feature = "graph")]
impl AllLocks {
    /// Takes them all; `None` if the calling thread is in a fork, and so holds them already.
    pub(crate) fn take() -> Option<Self> {
        if this_thread_forks() {
            return None;
        }
        // SAFETY: the handler is a function like any other.
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
