//! What is live in all, at most, and from when on that is to be acted on.

use core::sync::atomic::{AtomicU64, Ordering};

/// Bytes of the program's traced blocks, or their estimate.
static CURRENT_BYTES: AtomicU64 = AtomicU64::new(0);
static PEAK_BYTES: AtomicU64 = AtomicU64::new(0);
/// Most bytes since the timeline's last sample, or all the time if there is none.
static INTERVAL_PEAK_BYTES: AtomicU64 = AtomicU64::new(0);
/// From so many bytes on what is held is to be kept as the peak; the highest number if it never is.
static KEEP_BYTES: AtomicU64 = AtomicU64::new(u64::MAX);
/// From so many bytes on the timeline is to have a sample; the highest number if never.
static SAMPLE_BYTES: AtomicU64 = AtomicU64::new(u64::MAX);
/// The lower of these two.
static NEAR_BYTES: AtomicU64 = AtomicU64::new(u64::MAX);

/// The program has so many bytes more.
#[inline(always)]
pub(in crate::trace) fn add(bytes: u64) {
    // Relaxed (all): sums, ordering nothing.
    let current = CURRENT_BYTES.fetch_add(bytes, Ordering::Relaxed) + bytes;
    // No more than the peak of all: so one comparison does for both.
    if current > INTERVAL_PEAK_BYTES.load(Ordering::Relaxed) {
        INTERVAL_PEAK_BYTES.fetch_max(current, Ordering::Relaxed);
        PEAK_BYTES.fetch_max(current, Ordering::Relaxed);
    }
}

/// The program has so many bytes less.
#[inline(always)]
pub(in crate::trace) fn subtract(bytes: u64) {
    // Relaxed: as in `add`.
    CURRENT_BYTES.fetch_sub(bytes, Ordering::Relaxed);
}

/// The program's bytes now and at most, or their estimates.
pub(in crate::trace) fn traced_memory() -> (u64, u64) {
    // Relaxed (both): a reading while others write is a snapshot.
    let current = CURRENT_BYTES.load(Ordering::Relaxed);
    (current, PEAK_BYTES.load(Ordering::Relaxed).max(current))
}

/// Sets the peak to what there is now.
pub(in crate::trace) fn reset() {
    // Relaxed (all): as in `traced_memory`. First down, then up: who counts meanwhile is not lost.
    for peak in [&INTERVAL_PEAK_BYTES, &PEAK_BYTES] {
        peak.store(0, Ordering::Relaxed);
        peak.fetch_max(CURRENT_BYTES.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

/// Whether there may be a new peak: to be kept, or to have a sample.
#[inline]
pub(in crate::trace) fn is_near() -> bool {
    // Relaxed (both): a hint; who acts on it looks again.
    CURRENT_BYTES.load(Ordering::Relaxed) >= NEAR_BYTES.load(Ordering::Relaxed)
}

/// Whether there is a new peak to be kept.
pub(in crate::trace) fn is_due() -> bool {
    // Relaxed (both): as above.
    CURRENT_BYTES.load(Ordering::Relaxed) >= KEEP_BYTES.load(Ordering::Relaxed)
}

/// Whether a timeline is to have a sample of a new peak.
pub(in crate::trace) fn sample_is_due() -> bool {
    // Relaxed (both): as above.
    CURRENT_BYTES.load(Ordering::Relaxed) >= SAMPLE_BYTES.load(Ordering::Relaxed)
}

/// Lets a peak of at least so many bytes be kept; none, if that is the highest number.
pub(in crate::trace) fn keep_from(bytes: u64) {
    // Relaxed: as above.
    KEEP_BYTES.store(bytes, Ordering::Relaxed);
    settle_near();
}

/// Lets a sample be due from so many bytes on; never, if that is the highest number.
pub(in crate::trace) fn sample_from(bytes: u64) {
    // Relaxed: as above.
    SAMPLE_BYTES.store(bytes, Ordering::Relaxed);
    settle_near();
}

/// The lower of both. Two threads that change one each at once may leave an old one: a timeline settles it with each of
/// its samples.
fn settle_near() {
    // Relaxed (all): as above.
    let near = KEEP_BYTES.load(Ordering::Relaxed).min(SAMPLE_BYTES.load(Ordering::Relaxed));
    NEAR_BYTES.store(near, Ordering::Relaxed);
}

/// The program's bytes now, and at most since the last call.
pub(in crate::trace) fn take_of_interval() -> (u64, u64) {
    // Relaxed (all): as in `traced_memory`.
    let current = CURRENT_BYTES.load(Ordering::Relaxed);
    (current, INTERVAL_PEAK_BYTES.swap(current, Ordering::Relaxed).max(current))
}
