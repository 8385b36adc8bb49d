//! [`measure`]: what a closure allocates, counted while it runs and at no other time.
//!
//! Meanwhile the calling thread's magazines are poisoned, so each of its calls takes the slow path, which calls
//! `observe`. Other threads keep their fast paths. The counts belong to the thread, so nothing is shared.

use core::cell::Cell;

use crate::base::size_class::SizeClass;
use crate::cache::{GLOBAL, ThreadCache, current, with_thread};
use crate::observe::{self, Counter, MEASURE, Request};
use crate::os::BYPASS;

/// The blocks and bytes that a closure allocated, from [`measure`].
///
/// A small block counts as the bytes of its class, a large block as the bytes asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Measured {
    /// Blocks allocated.
    pub blocks_allocated: usize,
    /// Bytes of the blocks allocated.
    pub bytes_allocated: usize,
    /// The most blocks alive at one time, beyond those alive at the start.
    pub blocks_peak: usize,
    /// The most bytes alive at one time, beyond those alive at the start.
    pub bytes_peak: usize,
    /// Blocks left alive: those allocated less those freed. Negative if the closure freed more blocks (older ones) than
    /// it allocated.
    pub blocks_live: isize,
    /// Bytes left alive: those allocated less those freed. Negative if the closure freed more bytes than it allocated.
    pub bytes_live: isize,
}

thread_local! {
    /// The innermost measurement of the thread, while it runs.
    static RUNNING: Cell<Option<Measured>> = const { Cell::new(None) };
}

/// Runs `build` and counts what the calling thread allocates and frees meanwhile.
///
/// If `build` makes a value, what it leaves alive is the value's deep size, in the sense of Python's `asizeof`: all
/// blocks that the value holds, directly or not. Small and large requests of this thread count; those of other threads
/// do not. Measurements may be nested. A `realloc` within the size class counts nothing. A `realloc` to another class
/// counts as an allocation and then a free. A `realloc` of a large block counts as a free and then an allocation, so
/// the peak is the same as if the block grew in place.
///
/// While it runs, each of the thread's requests takes the slow path. At other times there is no counting and no cost.
/// It counts only requests to [`Pymalloc`](crate::Pymalloc), so the program must use that, as its global allocator or
/// otherwise. What the tracer allocates for itself does not count.
///
/// # Panics
/// If `build` panics: the panic goes on to the caller, and the measurement ends.
///
/// ```
/// # #[global_allocator] static GLOBAL: pymalloc::Pymalloc = pymalloc::Pymalloc::new();
/// let (list, measured) = pymalloc::measure(|| {
///     let list: Vec<Box<u64>> = (0..10).map(Box::new).collect();
///     list
/// });
/// assert_eq!(measured.blocks_live, 11);
/// assert_eq!(measured.bytes_live, 10 * 8 + 80);
/// drop(list);
/// ```
#[doc(alias = "asizeof")]
#[doc(alias = "sys.getsizeof")]
#[doc(alias = "thread.allocated")]
pub fn measure<T>(build: impl FnOnce() -> T) -> (T, Measured) {
    let running = Running::start();
    let value = build();
    (value, running.end())
}

/// A running measurement. It ends when this is dropped, even by a panic.
struct Running {
    /// The measurement around this one, if there is one.
    outer: Option<Measured>,
}

impl Running {
    fn start() -> Self {
        let outer = RUNNING.get();
        if outer.is_none() {
            poison_own(true);
            observe::set_counter(&COUNTER);
            observe::want(MEASURE);
        }
        RUNNING.set(Some(Measured::default()));
        Self { outer }
    }

    fn end(self) -> Measured {
        RUNNING.get().unwrap_or_default()
        // Dropped here.
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let inner = RUNNING.get().unwrap_or_default();
        RUNNING.set(self.outer.map(|outer| outer.followed_by(inner)));
        if self.outer.is_none() {
            observe::unwant(MEASURE);
            poison_own(false);
        }
    }
}

/// Poisons the calling thread's magazines, or lifts that poison.
fn poison_own(poisoned: bool) {
    if BYPASS {
        return;
    }
    if with_thread(|_| ()).is_none() {
        // The first small request of a thread gives it a cache.
        let class = SizeClass::SMALLEST;
        let block = current().alloc(class, Request::of_bytes(class.block_bytes()));
        if !block.is_null() {
            // SAFETY: a block of the class, ours.
            unsafe { current().free(class, block) };
        }
    }
    with_thread(|cache: &ThreadCache| cache.set.enter(&GLOBAL, |inside| cache.set_own_poison(poisoned, inside.door())));
}

impl Measured {
    /// The measurement of two runs, one after the other, from the measurements of each.
    fn followed_by(self, next: Self) -> Self {
        let peak = |peak: usize, live: isize, next: usize| peak.max(live.saturating_add_unsigned(next).max(0) as usize);
        Self {
            blocks_allocated: self.blocks_allocated + next.blocks_allocated,
            bytes_allocated: self.bytes_allocated + next.bytes_allocated,
            blocks_peak: peak(self.blocks_peak, self.blocks_live, next.blocks_peak),
            bytes_peak: peak(self.bytes_peak, self.bytes_live, next.bytes_peak),
            blocks_live: self.blocks_live + next.blocks_live,
            bytes_live: self.bytes_live + next.bytes_live,
        }
    }
}

static COUNTER: Counter = Counter { allocated: count_allocated, freed: count_freed };

/// The calling thread allocated a block.
fn count_allocated(bytes: usize) {
    count(Measured {
        blocks_allocated: 1,
        bytes_allocated: bytes,
        blocks_peak: 1,
        bytes_peak: bytes,
        blocks_live: 1,
        bytes_live: bytes.cast_signed(),
    });
}

/// The calling thread frees a block.
fn count_freed(bytes: usize) {
    count(Measured { blocks_live: -1, bytes_live: -bytes.cast_signed(), ..Measured::default() });
}

fn count(event: Measured) {
    if let Some(so_far) = RUNNING.get() {
        RUNNING.set(Some(so_far.followed_by(event)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::test_heap::{TestHeap, alloc, slow_calls};

    #[cfg(not(pymalloc_bypass))]
    #[test]
    fn calls_take_the_slow_path_while_measured_and_only_then() {
        let class = SizeClass::LARGEST;
        let pair = || {
            let block = current().alloc(class, Request::of_bytes(class.block_bytes()));
            // SAFETY: a block of the class, ours.
            unsafe { current().free(class, block) };
        };
        let calls = || with_thread(slow_calls).expect("the thread has a cache");
        pair();
        let before = calls();
        pair();
        assert_eq!(calls(), before);
        measure(|| {
            pair();
            measure(pair);
            pair();
        });
        assert_eq!(calls(), before + 6);
        let thread = std::panic::catch_unwind(|| measure(|| std::panic::resume_unwind(Box::new(()))));
        assert!(thread.is_err());
        pair();
        assert_eq!((calls(), RUNNING.get()), (before + 6, None));
    }

    #[test]
    fn the_poison_of_all_and_that_of_one_measuring_thread_do_not_undo_each_other() {
        let test = TestHeap::new();
        let cache = test.attach();
        let calls_of_a_pair = || {
            let before = slow_calls(cache);
            alloc(cache, SizeClass::LARGEST, 1).expect("memory").free(cache);
            slow_calls(cache) - before
        };
        let set_own = |on| cache.set.enter(test.heap, |inside| cache.set_own_poison(on, inside.door()));
        set_own(true);
        ThreadCache::poison_all(test.heap, true);
        ThreadCache::poison_all(test.heap, false);
        assert_eq!(calls_of_a_pair(), 2);
        ThreadCache::poison_all(test.heap, true);
        set_own(false);
        assert_eq!(calls_of_a_pair(), 2);
        ThreadCache::poison_all(test.heap, false);
        assert_eq!(calls_of_a_pair(), 0);
        // A forked child does not have the measuring thread. The thread that adopts its cache there does not measure.
        set_own(true);
        cache.release();
        assert!(core::ptr::eq(test.attach(), cache));
        // The first call of a class takes the slow path in any case.
        calls_of_a_pair();
        assert_eq!(calls_of_a_pair(), 0);
        cache.release();
    }

    #[test]
    fn a_peak_is_the_highest_point_of_the_sum_and_never_below_the_start() {
        RUNNING.set(Some(Measured::default()));
        count_freed(100);
        count_allocated(60);
        count_allocated(70);
        count_freed(60);
        let seen = RUNNING.take().expect("set above");
        assert_eq!((seen.blocks_allocated, seen.bytes_allocated), (2, 130));
        assert_eq!((seen.blocks_peak, seen.bytes_peak), (1, 30));
        assert_eq!((seen.blocks_live, seen.bytes_live), (0, -30));
        // No measurement runs: nothing is counted.
        count_allocated(60);
        assert_eq!(RUNNING.get(), None);
    }
}
