//! The hooks in the cold paths: while an observer asks for it, these paths tell it of blocks and arenas.
//!
//! The slow path of small requests and the path of large ones look at one word, which is 0 as a rule: one load, and one
//! branch that is not taken. The fast path of small requests does not look. An observer that must see every small
//! request poisons caches (`cache`), so that each call takes the slow path: `measure` poisons its own thread's cache,
//! the tracer all caches.
//!
//! The observers are in layers above, so this module calls them through pointers to tables of functions. A pointer is
//! null until its observer registers, and an observer registers before it asks for anything.
//!
//! Observers are called while the thread holds none of the heap's locks, so they may allocate. `errno` stays as it was.
//! An observer must not pass a cancellation point (`os::files`). It is told of a block while no other thread can have
//! the block's address: after the allocation and before the free.

use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use crate::os::KeepErrno;

/// What observers ask for: one bit each for [`REPORT`] and `TRACE`; above them, in units of [`MEASURE`], the number of
/// threads that measure.
static WANTED: AtomicU32 = AtomicU32::new(0);

/// A report of statistics is due.
pub(crate) const REPORT: u32 = 1;
/// Every block is traced.
#[cfg(feature = "trace")]
pub(crate) const TRACE: u32 = 2;
/// One thread that measures; the word counts them.
pub(crate) const MEASURE: u32 = 1 << 8;

/// The party that a block belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    Program,
    /// Allocated by the tracer for itself: it is not counted.
    #[cfg(feature = "trace")]
    Tracer,
}

/// What the program asked for. Only the tracer needs it; without the tracer it is empty and takes no register.
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
    /// A block was allocated. The last argument points to a local variable of the function that calls this. The stack
    /// trace begins two callers above that function.
    pub(crate) allocated: fn(*mut u8, Request, *const u8) -> Owner,
    /// A block is about to be freed.
    pub(crate) freed: fn(*mut u8) -> Owner,
    /// A block is about to be resized: the function does it, and moves the block or not.
    pub(crate) moved: fn(*mut u8, &mut dyn FnMut() -> *mut u8) -> (*mut u8, Owner),
}

/// The functions of [`measure`](crate::measure()): bytes allocated, bytes freed.
pub(crate) struct Counter {
    pub(crate) allocated: fn(usize),
    pub(crate) freed: fn(usize),
}

/// The function that prints a report if one is due.
pub(crate) struct Reporter(pub(crate) fn());

/// The pointer to an observer's table.
struct Place<T: 'static>(AtomicPtr<T>);

impl<T> Place<T> {
    const fn empty() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    fn set(&self, observer: &'static T) {
        // Relaxed: nothing but the pointer is published; the table is a constant.
        self.0.store(ptr::from_ref(observer).cast_mut(), Ordering::Relaxed);
    }

    fn get(&self) -> Option<&'static T> {
        // SAFETY: null or a static. Relaxed: as in `set`. A thread that frees a recorded block sees the tracer here:
        // the call that recorded the block saw it, and happens before the free.
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
    // Relaxed: a hint. A thread sees its own requests. What the tracer needs other threads to see is ordered by the
    // session's number (`trace/record/hook.rs`). Nothing else has to be seen at once.
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

/// Undoes [`want`]; returns whether it had been wanted.
pub(crate) fn unwant(what: u32) -> bool {
    // Relaxed (both): as in `is_wanted`.
    match what {
        MEASURE => WANTED.fetch_sub(MEASURE, Ordering::Relaxed) >= MEASURE,
        bit => WANTED.fetch_and(!bit, Ordering::Relaxed) & bit != 0,
    }
}

/// From now on every new arena makes a report due.
pub(crate) fn report_arenas() {
    // Relaxed: written before the program starts threads.
    REPORTS_ARENAS.store(1, Ordering::Relaxed);
}

/// Tells observers that an arena was mapped. The caller holds the heap's lock.
pub(crate) fn arena_mapped() {
    // Relaxed: as in `report_arenas`.
    if REPORTS_ARENAS.load(Ordering::Relaxed) != 0 {
        want(REPORT);
    }
}

/// Tells observers that a block of `bytes` was handed out for `request`; `block` may be null. The calling function must
/// not be inlined: the tracer leaves its frame out of the stack trace.
#[inline(always)]
pub(crate) fn allocated(block: *mut u8, bytes: usize, request: Request) {
    if is_wanted() {
        allocated_wanted(block, bytes, request);
    }
}

/// Tells observers that a block of `bytes` is about to be freed.
#[inline(always)]
pub(crate) fn freed(block: *mut u8, bytes: usize) {
    if is_wanted() {
        freed_wanted(block, bytes);
    }
}

/// [`allocated`], if an observer asks for something.
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

/// [`freed`], if an observer asks for something.
#[cold]
#[inline(never)]
pub(crate) fn freed_wanted(block: *mut u8, bytes: usize) {
    let _errno = KeepErrno::new();
    if TRACER.get().map_or(Owner::Program, |tracer| (tracer.freed)(block)) == Owner::Program && is_measuring() {
        count_freed(bytes);
    }
    print_if_due();
}

/// Resizes a large block from `old_bytes` to `new_bytes` by `realloc`, and tells observers, if one asks for something.
/// `realloc` may move the block, or fail and leave it as it was. As for [`allocated`], the calling function must not be
/// inlined.
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
    // The free counts first, as if the block grew in place: the large allocator does not say whether it held both
    // blocks at once.
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
