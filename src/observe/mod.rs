//! The seam in the cold paths: what is to be done there beside allocating, when somebody asks for it.
//!
//! One word, 0 as a rule, is looked at by the slow path of small requests and by the path of large ones: one load and
//! one branch that is never taken. The fast path of small requests does not look. To see every small request, an
//! observer poisons the caches, so that each call takes the slow path (`cache`): `measure` its thread's, the tracer
//! all.
//!
//! The observers are above this module, so it knows them by tables of functions, which are empty until they register.
//! An observer registers before it asks for anything.
//!
//! What is called from here is called without any of the heap's locks, so it may allocate; `errno` stays as it was, and
//! no cancellation point may be passed (`os::files`). An observer hears of a block while nobody else can have its
//! address: after its allocation and before its free.

use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use crate::os::KeepErrno;

/// What is wanted, as bits; [`MEASURE`] is the unit of a count above them.
static WANTED: AtomicU32 = AtomicU32::new(0);

/// A report of statistics is due.
pub(crate) const REPORT: u32 = 1;
/// Every block is traced.
#[cfg(feature = "trace")]
pub(crate) const TRACE: u32 = 2;
/// A thread measures; several may.
pub(crate) const MEASURE: u32 = 1 << 8;

/// Whose block it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    Program,
    /// Allocated by the tracer for itself: nobody counts it.
    #[cfg(feature = "trace")]
    Tracer,
}

/// What the program asked for. Without the tracer nothing needs it, and it takes no register.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    #[cfg(feature = "trace")]
    bytes: usize,
}

impl Request {
    #[inline(always)]
    pub(crate) const fn of_bytes(bytes: usize) -> Self {
        #[cfg(not(feature = "trace"))]
        let _ = bytes;
        Self {
            #[cfg(feature = "trace")]
            bytes,
        }
    }

    /// The bytes of the request.
    #[cfg(feature = "trace")]
    pub(crate) const fn bytes(self) -> usize {
        self.bytes
    }
}

/// The tracer's functions.
pub(crate) struct Tracer {
    /// A block was allocated. The trace begins with the caller of the caller of the function whose local variable the
    /// last argument is.
    pub(crate) allocated: fn(*mut u8, Request, *const u8) -> Owner,
    /// A block is about to be freed.
    pub(crate) freed: fn(*mut u8) -> Owner,
    /// A block is moved, or not, by the function.
    pub(crate) moved: fn(*mut u8, &mut dyn FnMut() -> *mut u8) -> (*mut u8, Owner),
}

/// The functions of [`measure`](crate::measure()): bytes allocated, bytes freed.
pub(crate) struct Counter {
    pub(crate) allocated: fn(usize),
    pub(crate) freed: fn(usize),
}

/// The function that prints a report if one is due.
pub(crate) struct Reporter(pub(crate) fn());

/// An observer's place.
struct Place<T: 'static>(AtomicPtr<T>);

impl<T> Place<T> {
    const fn empty() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    fn set(&self, observer: &'static T) {
        // Relaxed: the pointer alone is published; a table is a constant.
        self.0.store(ptr::from_ref(observer).cast_mut(), Ordering::Relaxed);
    }

    fn get(&self) -> Option<&'static T> {
        // SAFETY: null or a static. Relaxed: as in `set`. A thread that frees a block which the tracer recorded sees
        // the tracer here: the call that recorded the block did, and happens before.
        unsafe { self.0.load(Ordering::Relaxed).as_ref() }
    }
}

static TRACER: Place<Tracer> = Place::empty();
static COUNTER: Place<Counter> = Place::empty();
static REPORTER: Place<Reporter> = Place::empty();

/// Whether a new arena makes a report due: 0 or 1.
static REPORTS_ARENAS: AtomicU32 = AtomicU32::new(0);

/// Registers the tracer, any number of times.
#[cfg(feature = "trace")]
pub(crate) fn set_tracer(tracer: &'static Tracer) {
    TRACER.set(tracer);
}

/// Registers the counter, any number of times.
pub(crate) fn set_counter(counter: &'static Counter) {
    COUNTER.set(counter);
}

/// Registers the reporter, any number of times. Signal handlers may call it.
pub(crate) fn set_reporter(reporter: &'static Reporter) {
    REPORTER.set(reporter);
}

/// Whether anything is wanted.
#[inline(always)]
pub(crate) fn is_wanted() -> bool {
    // Relaxed: a hint. A thread sees what it wanted itself; what the tracer needs seen happens before, by the session's
    // number (`trace/record/hook.rs`); nobody else needs to be seen at once.
    WANTED.load(Ordering::Relaxed) != 0
}

/// Whether any thread measures.
fn is_measuring() -> bool {
    // Relaxed: as in `is_wanted`.
    WANTED.load(Ordering::Relaxed) >= MEASURE
}

/// Adds a bit, or one measuring thread. Signal handlers may call it.
pub(crate) fn want(what: u32) {
    // Relaxed (both): as in `is_wanted`.
    match what {
        MEASURE => WANTED.fetch_add(MEASURE, Ordering::Relaxed),
        bit => WANTED.fetch_or(bit, Ordering::Relaxed),
    };
}

/// Undoes [`want`]; returns whether it was wanted.
pub(crate) fn unwant(what: u32) -> bool {
    // Relaxed (both): as in `is_wanted`.
    match what {
        MEASURE => WANTED.fetch_sub(MEASURE, Ordering::Relaxed) >= MEASURE,
        bit => WANTED.fetch_and(!bit, Ordering::Relaxed) & bit != 0,
    }
}

/// From now on every new arena makes a report due.
pub(crate) fn report_arenas() {
    // Relaxed: written before there are threads.
    REPORTS_ARENAS.store(1, Ordering::Relaxed);
}

/// An arena was mapped, under the heap's lock.
pub(crate) fn arena_mapped() {
    // Relaxed: as in `report_arenas`.
    if REPORTS_ARENAS.load(Ordering::Relaxed) != 0 {
        want(REPORT);
    }
}

/// A block of `bytes` was handed out for `request`, or null. The calling function must not be inlined: the tracer takes
/// it off the stack that it sees.
#[inline(always)]
pub(crate) fn allocated(block: *mut u8, bytes: usize, request: Request) {
    if is_wanted() {
        allocated_wanted(block, bytes, request);
    }
}

/// A block of `bytes` is about to be freed.
#[inline(always)]
pub(crate) fn freed(block: *mut u8, bytes: usize) {
    if is_wanted() {
        freed_wanted(block, bytes);
    }
}

/// [`allocated`], when something is wanted.
#[cold]
#[inline(never)]
pub(crate) fn allocated_wanted(block: *mut u8, bytes: usize, request: Request) {
    let _errno = KeepErrno::new();
    if !block.is_null() {
        let marker = 0;
        let tell = |tracer: &Tracer| (tracer.allocated)(block, request, &raw const marker);
        if TRACER.get().map_or(Owner::Program, tell) == Owner::Program && is_measuring() {
            count_allocated(bytes);
        }
    }
    print_if_due();
}

/// [`freed`], when something is wanted.
#[cold]
#[inline(never)]
pub(crate) fn freed_wanted(block: *mut u8, bytes: usize) {
    let _errno = KeepErrno::new();
    if TRACER.get().map_or(Owner::Program, |tracer| (tracer.freed)(block)) == Owner::Program && is_measuring() {
        count_freed(bytes);
    }
    print_if_due();
}

/// A large block of `old_bytes` gets `new_bytes` by `realloc`, which may move it, or fail and leave it as it was; for
/// when something is wanted. As [`allocated`], for a calling function that is not inlined.
#[inline(always)]
pub(crate) fn resized_wanted(
    block: *mut u8,
    old_bytes: usize,
    new_bytes: usize,
    mut realloc: impl FnMut() -> *mut u8,
) -> *mut u8 {
    let (new, owner) = match TRACER.get() {
        Some(tracer) => (tracer.moved)(block, &mut realloc),
        None => (realloc(), Owner::Program),
    };
    if new.is_null() {
        return new;
    }
    // In this order: as if in place, since whether the large allocator held both at once it does not say.
    if owner == Owner::Program && is_measuring() {
        count_freed(old_bytes);
    }
    allocated_wanted(new, new_bytes, Request::of_bytes(new_bytes));
    new
}

fn count_allocated(bytes: usize) {
    if let Some(counter) = COUNTER.get() {
        (counter.allocated)(bytes);
    }
}

fn count_freed(bytes: usize) {
    if let Some(counter) = COUNTER.get() {
        (counter.freed)(bytes);
    }
}

fn print_if_due() {
    if let Some(Reporter(print)) = REPORTER.get() {
        print();
    }
}
