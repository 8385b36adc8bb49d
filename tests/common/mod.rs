//! What the tests share: seeded random numbers, blocks that check their contents, memory readings and children. The
//! soak example and the benchmarks use it, too.
#![allow(dead_code, unused_imports, reason = "every binary that includes this file uses its own part of it")]

pub(crate) mod children;
#[cfg(unix)]
mod readings_unix;
#[cfg(windows)]
mod readings_windows;
#[cfg(target_os = "linux")]
pub(crate) mod sandbox;
#[cfg(target_os = "linux")]
pub(crate) mod stack;
#[cfg(windows)]
pub(crate) mod windows_threads;

use std::alloc::{Layout, alloc, alloc_zeroed, dealloc, handle_alloc_error, realloc};
use std::hint::black_box;
use std::panic::{catch_unwind, resume_unwind};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

#[cfg(unix)]
pub(crate) use children::or_exit;
pub(crate) use children::{
    abort_of, alone, is_abort, is_child, output_of_abort, prepare_to_abort, run_child, without_emulators_line,
};
#[cfg(target_os = "linux")]
pub(crate) use readings_unix::thread_number;
#[cfg(unix)]
pub(crate) use readings_unix::{
    data_bytes, mapped_bytes, memory_bytes, os_page_bytes, rss_bytes, watchdog, watchdog_off,
};
#[cfg(windows)]
pub(crate) use readings_windows::{memory_bytes, os_page_bytes, rss_bytes, thread_number};

/// splitmix64: small, seeded, and every state is valid.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    /// A number under `limit`; the bias of the remainder does not matter here.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }

    /// A layout of 1..=600 bytes (one in eight or so is large), aligned to 1..=64.
    pub(crate) fn layout(&mut self) -> Layout {
        let bytes = 1 + self.below(600);
        let align = 1 << self.below(7);
        Layout::from_size_align(bytes, align).expect("a small size and a power of two")
    }
}

const fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}

/// A block full of a pattern made from its serial number, which is checked when the block is freed. The check fails if
/// the block was handed out twice or other code wrote into it.
#[derive(Debug)]
pub(crate) struct Block {
    start: NonNull<u8>,
    layout: Layout,
    serial: u64,
}

// SAFETY: a `Block` is the only handle of its memory, as a `Box` is.
unsafe impl Send for Block {}

impl Block {
    pub(crate) fn new(serial: u64, layout: Layout) -> Self {
        Self::try_new(serial, layout).unwrap_or_else(|| handle_alloc_error(layout))
    }

    /// `None` if there is no memory.
    pub(crate) fn try_new(serial: u64, layout: Layout) -> Option<Self> {
        assert_ne!(layout.size(), 0);
        // SAFETY: the size is not 0. `black_box` keeps the compiler from removing the pair of
        // calls.
        let start = NonNull::new(black_box(unsafe { alloc(layout) }))?;
        Some(Self::filled(start, layout, serial))
    }

    /// As `try_new`, by `alloc_zeroed`.
    ///
    /// # Panics
    /// If the memory is not zero.
    pub(crate) fn try_zeroed(serial: u64, layout: Layout) -> Option<Self> {
        assert_ne!(layout.size(), 0);
        // SAFETY: as in `try_new`.
        let start = NonNull::new(black_box(unsafe { alloc_zeroed(layout) }))?;
        // SAFETY: the block has this many bytes, all initialised, and no other code uses it.
        let bytes = unsafe { std::slice::from_raw_parts(start.as_ptr(), layout.size()) };
        assert!(bytes.iter().all(|&byte| byte == 0), "zeroed memory at {start:?} is not zero");
        Some(Self::filled(start, layout, serial))
    }

    fn filled(start: NonNull<u8>, layout: Layout, serial: u64) -> Self {
        assert!(start.as_ptr().addr().is_multiple_of(layout.align()));
        let block = Self { start, layout, serial };
        block.fill();
        block
    }

    fn fill(&self) {
        for (index, offset) in (0..self.layout.size()).step_by(8).enumerate() {
            let word = pattern(self.serial, index);
            let bytes = word.len().min(self.layout.size() - offset);
            // SAFETY: `offset + bytes` is within the block, which no other code knows.
            unsafe {
                self.start.as_ptr().add(offset).copy_from_nonoverlapping(word.as_ptr(), bytes);
            }
        }
    }

    /// Changes its size by `realloc`. Returns `false` if there is no memory; the block is unchanged then.
    ///
    /// # Panics
    /// If the contents within both sizes were not kept.
    pub(crate) fn try_resize(&mut self, bytes: usize) -> bool {
        assert_ne!(bytes, 0);
        let resized = |bytes| Layout::from_size_align(bytes, self.layout.align()).expect("a small size");
        let (kept, whole) = (resized(bytes.min(self.layout.size())), resized(bytes));
        // SAFETY: this block's own layout; the new size is not 0, and small.
        let moved = unsafe { realloc(black_box(self.start.as_ptr()), self.layout, bytes) };
        let Some(start) = NonNull::new(moved) else {
            return false;
        };
        assert!(start.as_ptr().addr().is_multiple_of(whole.align()));
        self.start = start;
        self.layout = kept;
        self.check();
        self.layout = whole;
        self.fill();
        true
    }

    pub(crate) fn random(serial: u64, rng: &mut Rng) -> Self {
        Self::new(serial, rng.layout())
    }

    pub(crate) const fn serial(&self) -> u64 {
        self.serial
    }

    pub(crate) const fn start(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    pub(crate) const fn bytes(&self) -> usize {
        self.layout.size()
    }

    pub(crate) const fn layout(&self) -> Layout {
        self.layout
    }

    pub(crate) fn address(&self) -> usize {
        self.start.addr().get()
    }

    /// Whether the block came from a pool.
    pub(crate) fn is_small(&self) -> bool {
        // With these flags every request gets some bytes more (`marks`), which `class_bytes` does not include.
        let pad_bytes = if cfg!(any(pymalloc_valgrind, pymalloc_asan)) { 16 } else { 0 };
        let padded = Layout::from_size_align(self.layout.size() + pad_bytes, self.layout.align());
        pymalloc::class_bytes(padded.expect("a small size")).is_some()
    }

    /// # Panics
    /// If other code wrote into the block.
    pub(crate) fn check(&self) {
        // SAFETY: `new` wrote every byte of the block, and it is ours until it is dropped.
        let bytes = unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.layout.size()) };
        for (index, part) in bytes.chunks(8).enumerate() {
            assert_eq!(
                part,
                &pattern(self.serial, index)[..part.len()],
                "block {:?} with serial number {}: its word {index} was overwritten",
                self.start,
                self.serial,
            );
        }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.check();
        }
        // SAFETY: `new` got the block with this layout, and only this frees it.
        unsafe { dealloc(black_box(self.start.as_ptr()), self.layout) };
    }
}

const fn pattern(serial: u64, index: usize) -> [u8; 8] {
    mix(serial).wrapping_add(index as u64).to_le_bytes()
}

/// The statistics of the heap, which passes its self-check.
///
/// # Panics
/// If it does not.
pub(crate) fn assert_sound() -> pymalloc::stats::Stats {
    pymalloc::self_check()
        .unwrap_or_else(|corruption| panic!("self-check: {} at {:#x}", corruption.message, corruption.address))
}

/// Purges, and returns the number of arenas that are left.
pub(crate) fn arenas_after_purge() -> usize {
    pymalloc::flush_thread_cache();
    pymalloc::purge();
    assert_sound().arenas_mapped
}

/// The number of arenas that stay mapped when the program holds nothing. Call it before anything big: when the first
/// thread starts, std allocates blocks that it keeps for good, and these must not lie amid a peak.
pub(crate) fn arenas_at_floor() -> usize {
    let one_block = || drop(Block::random(0, &mut Rng::new(0)));
    one_block();
    std::thread::spawn(one_block).join().expect("its check passed");
    arenas_after_purge()
}

/// Checks the heap, and that the number of live blocks is still `before`, within `slack`, because the threads of the
/// test harness keep a few blocks of their own.
pub(crate) fn assert_live_near(before: usize, slack: usize) -> pymalloc::stats::Stats {
    let stats = assert_sound();
    let now = stats.blocks_live();
    assert!(
        now.abs_diff(before) <= slack,
        "{before} blocks were live before, {now} are now (allowed difference: {slack})"
    );
    stats
}

/// A lock for tests that compare counts of the whole process, so that they run one at a time.
pub(crate) fn one_at_a_time() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    // If the lock is poisoned, the test that held it has failed and said so.
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Panics many times, and catches each panic, with the exception objects at many addresses.
///
/// With LLVM's unwinder, which musl targets use, an object at an odd multiple of 8 ends the process (`block_align` in
/// `src/base/size_class.rs`).
pub(crate) fn panic_at_many_addresses() {
    // Boxes of the size of that object. Those that are kept move later objects to other addresses, whether or not the
    // object's memory is used again at once.
    let mut kept = Vec::new();
    for number in 0..64_usize {
        let caught = catch_unwind(|| resume_unwind(Box::new(number))).expect_err("it panicked");
        assert_eq!(caught.downcast_ref(), Some(&number));
        if number % 3 == 0 {
            kept.push(Block::new(number as u64, Layout::new::<[u64; 7]>()));
        }
    }
}

/// Tells threads to stop when it is dropped: also by a panic, for which the scope waits for them.
pub(crate) struct StopOnDrop<'flag>(pub(crate) &'flag AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
