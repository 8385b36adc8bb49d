//! Counts requests, in the build that is never timed. In the others: nothing.

/// What was asked for since [`start`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Requests.
    pub requests: u64,
    /// Those that a small-object allocator serves.
    pub small_requests: u64,
    /// Bytes asked for. Growing a block asks for all its bytes again.
    pub bytes: u64,
    /// Those asked for by small requests.
    pub small_bytes: u64,
    /// Highest number of bytes asked for and live.
    pub peak_live_bytes: u64,
}

#[cfg(feature = "alloc-counting")]
pub use tally::{Counting, counts, start};

#[cfg(feature = "alloc-counting")]
mod tally {
    use super::Counts;
    use peers::params::SMALL_MAX_BYTES;
    use std::alloc::{GlobalAlloc, Layout, System};
    use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

    static REQUESTS: AtomicU64 = AtomicU64::new(0);
    static SMALL_REQUESTS: AtomicU64 = AtomicU64::new(0);
    static BYTES: AtomicU64 = AtomicU64::new(0);
    static SMALL_BYTES: AtomicU64 = AtomicU64::new(0);
    static LIVE_BYTES: AtomicI64 = AtomicI64::new(0);
    static PEAK_LIVE_BYTES: AtomicI64 = AtomicI64::new(0);

    /// Starts counting anew; what is live stays live.
    pub fn start() {
        for counter in [&REQUESTS, &SMALL_REQUESTS, &BYTES, &SMALL_BYTES] {
            counter.store(0, Relaxed);
        }
        PEAK_LIVE_BYTES.store(LIVE_BYTES.load(Relaxed), Relaxed);
    }

    /// What was counted.
    pub fn counts() -> Counts {
        Counts {
            requests: REQUESTS.load(Relaxed),
            small_requests: SMALL_REQUESTS.load(Relaxed),
            bytes: BYTES.load(Relaxed),
            small_bytes: SMALL_BYTES.load(Relaxed),
            peak_live_bytes: PEAK_LIVE_BYTES.load(Relaxed).unsigned_abs(),
        }
    }

    fn count(layout: Layout) {
        REQUESTS.fetch_add(1, Relaxed);
        BYTES.fetch_add(layout.size() as u64, Relaxed);
        // The size a request has once it is rounded up to its alignment.
        if layout.size().wrapping_sub(1) | (layout.align() - 1) < SMALL_MAX_BYTES {
            SMALL_REQUESTS.fetch_add(1, Relaxed);
            SMALL_BYTES.fetch_add(layout.size() as u64, Relaxed);
        }
    }

    fn live(change: i64) {
        let now = LIVE_BYTES.fetch_add(change, Relaxed) + change;
        if change > 0 {
            PEAK_LIVE_BYTES.fetch_max(now, Relaxed);
        }
    }

    /// `System`, counted.
    #[derive(Debug)]
    pub struct Counting;

    // SAFETY: forwards every call unchanged to `System`.
    unsafe impl GlobalAlloc for Counting {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            count(layout);
            live(layout.size() as i64);
            // SAFETY: the caller's promise, passed on.
            unsafe { System.alloc(layout) }
        }

        unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
            count(layout);
            live(layout.size() as i64);
            // SAFETY: the caller's promise, passed on.
            unsafe { System.alloc_zeroed(layout) }
        }

        unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
            live(-(layout.size() as i64));
            // SAFETY: the caller's promise, passed on.
            unsafe { System.dealloc(ptr, layout) }
        }

        unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
            // SAFETY: `new_size` is a legal size for this alignment, says the caller.
            count(unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) });
            live(new_size as i64 - layout.size() as i64);
            // SAFETY: the caller's promise, passed on.
            unsafe { System.realloc(ptr, layout, new_size) }
        }
    }
}

/// Nothing is counted.
#[cfg(not(feature = "alloc-counting"))]
pub fn start() {}

/// Nothing was counted.
#[cfg(not(feature = "alloc-counting"))]
pub fn counts() -> Counts {
    Counts::default()
}
