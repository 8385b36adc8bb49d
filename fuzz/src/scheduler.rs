//! Runs threads as coroutines on one OS thread, interleaved as the input says. At each access to an atomic, the running
//! thread may be stopped, and another goes on.

use core::cell::{Cell, RefCell};
use core::ptr;

use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, CoroutineResult, Yielder};

/// The most threads of a program.
pub(crate) const THREADS: usize = 4;

const STACK_BYTES: usize = 256 << 10;

/// What a thread is about to do at a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A load or a store.
    Access,
    /// A read-modify-write, or a call of the futex: the joints of the protocols.
    Exchange,
}

/// Says that `thread` goes on after `after` points; with `exchanges_only`, only points of that kind count. If the
/// thread is done or sleeps, the next one goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Switch {
    pub(crate) after: u32,
    pub(crate) exchanges_only: bool,
    pub(crate) thread: usize,
}

/// What a run did, to compare it with another of the same input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// Accesses to atomics.
    pub points: u64,
    /// How often a thread was stopped in the middle of an operation.
    pub switches: u64,
    /// How often a thread slept on a lock.
    pub sleeps: u64,
    /// A hash of which thread ran when.
    pub hash: u64,
}

impl Trace {
    fn note(&mut self, what: u64) {
        // FNV-1a by words.
        self.hash = (self.hash ^ what).wrapping_mul(0x0000_0100_0000_01b3);
    }
}

type Thread = Coroutine<(), (), ()>;

thread_local! {
    /// Points until the running thread is stopped.
    static COUNTDOWN: Cell<u64> = const { Cell::new(u64::MAX) };
    static EXCHANGES_ONLY: Cell<bool> = const { Cell::new(false) };
    /// The running coroutine's means to stop; null outside of coroutines.
    static WAY_OUT: Cell<*const Yielder<(), ()>> = const { Cell::new(ptr::null()) };
    static POINTS: Cell<u64> = const { Cell::new(0) };
    static RUNNING: Cell<usize> = const { Cell::new(0) };
    /// The word that each thread sleeps on, or 0.
    static SLEEPING: [Cell<usize>; THREADS] = const { [const { Cell::new(0) }; THREADS] };
    static SLEEPS: Cell<u64> = const { Cell::new(0) };
    /// Stacks that can be used again.
    static STACKS: RefCell<Vec<DefaultStack>> = const { RefCell::new(Vec::new()) };
}

/// Marks a place where the running thread may be stopped.
pub(crate) fn point(kind: Kind) {
    if WAY_OUT.get().is_null() {
        return;
    }
    POINTS.set(POINTS.get() + 1);
    if kind == Kind::Access && EXCHANGES_ONLY.get() {
        return;
    }
    match COUNTDOWN.get() {
        0 => stop(),
        left => COUNTDOWN.set(left - 1),
    }
}

fn stop() {
    let way_out = WAY_OUT.get();
    // SAFETY: set by the running coroutine, whose stack it is on.
    unsafe { &*way_out }.suspend(());
    WAY_OUT.set(way_out);
}

/// Makes the running thread sleep until `wake(word)`.
pub(crate) fn sleep(word: usize) {
    assert!(!WAY_OUT.get().is_null(), "deadlock: a lock is held when all threads are done");
    SLEEPS.set(SLEEPS.get() + 1);
    SLEEPING.with(|sleeping| sleeping[RUNNING.get()].set(word));
    stop();
}

/// Wakes the first thread that sleeps on `word`.
pub(crate) fn wake(word: usize) {
    SLEEPING.with(|sleeping| {
        if let Some(sleeper) = sleeping.iter().find(|on| on.get() == word) {
            sleeper.set(0);
        }
    });
}

fn spawn(body: Box<dyn FnOnce()>) -> Thread {
    let stack = STACKS.with_borrow_mut(Vec::pop);
    let stack = stack.unwrap_or_else(|| DefaultStack::new(STACK_BYTES).expect("memory for a stack"));
    Coroutine::with_stack(stack, move |way_out: &Yielder<(), ()>, ()| {
        WAY_OUT.set(way_out);
        body();
        WAY_OUT.set(ptr::null());
    })
}

/// Runs the threads to their ends.
///
/// # Panics
/// If a thread panics, or if all threads that are left sleep.
pub(crate) fn run(bodies: Vec<Box<dyn FnOnce()>>, switches: &[Switch]) -> Trace {
    assert!(bodies.len() <= THREADS);
    POINTS.set(0);
    SLEEPS.set(0);
    SLEEPING.with(|sleeping| sleeping.iter().for_each(|on| on.set(0)));
    let mut threads: Vec<Option<Thread>> = bodies.into_iter().map(|body| Some(spawn(body))).collect();
    let mut switches = switches.iter();
    let mut trace = Trace::default();
    let mut wanted = 0;
    loop {
        let is_awake = |thread: usize| SLEEPING.with(|sleeping| sleeping[thread].get() == 0);
        let candidates = (0..threads.len()).map(|step| (wanted + step) % threads.len());
        let next = candidates.clone().find(|&thread| threads[thread].is_some() && is_awake(thread));
        let Some(thread) = next else {
            assert!(threads.iter().all(Option::is_none), "deadlock: all threads sleep");
            break;
        };
        let switch = switches.next();
        COUNTDOWN.set(switch.map_or(u64::MAX, |switch| u64::from(switch.after)));
        EXCHANGES_ONLY.set(switch.is_some_and(|switch| switch.exchanges_only));
        RUNNING.set(thread);
        trace.note(thread as u64);
        let coroutine = threads[thread].as_mut().expect("found above");
        let result = coroutine.resume(());
        WAY_OUT.set(ptr::null());
        trace.note(POINTS.get());
        match result {
            CoroutineResult::Yield(()) => trace.switches += 1,
            CoroutineResult::Return(()) => {
                let done = threads[thread].take().expect("found above");
                STACKS.with_borrow_mut(|stacks| stacks.push(done.into_stack()));
            }
        }
        wanted = switch.map_or(thread + 1, |switch| switch.thread);
    }
    trace.points = POINTS.get();
    trace.sleeps = SLEEPS.get();
    trace
}
