//! The live bytes, their peak, and two limits. At one of them a peak is kept, at the other the timeline takes a sample.

use core::sync::atomic::{AtomicU64, Ordering};

/// Bytes of the program's traced blocks, or their estimate.
static CURRENT_BYTES: AtomicU64 = AtomicU64::new(0);
static PEAK_BYTES: AtomicU64 = AtomicU64::new(0);
/// The peak since the timeline's last sample; without a timeline, since the last reset.
static INTERVAL_PEAK_BYTES: AtomicU64 = AtomicU64::new(0);
/// From this many live bytes on, the live blocks are kept as the peak; the highest number stands for never.
static KEEP_BYTES: AtomicU64 = AtomicU64::new(u64::MAX);
/// From this many live bytes on, the timeline takes a sample; the highest number stands for never.
static SAMPLE_BYTES: AtomicU64 = AtomicU64::new(u64::MAX);
/// The lower of these two.
static NEAR_BYTES: AtomicU64 = AtomicU64::new(u64::MAX);

/// Counts bytes that the program has allocated.
#[inline(always)]
pub(in crate::trace) fn add(bytes: u64) {
    // Relaxed (all): sums, ordering nothing.
    let current = CURRENT_BYTES.fetch_add(bytes, Ordering::Relaxed) + bytes;
    // The interval's peak is at most the peak of all time, so one comparison serves both.
    if current > INTERVAL_PEAK_BYTES.load(Ordering::Relaxed) {
        INTERVAL_PEAK_BYTES.fetch_max(current, Ordering::Relaxed);
        PEAK_BYTES.fetch_max(current, Ordering::Relaxed);
    }
}

/// Counts bytes that the program has freed.
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

/// Sets both peaks to the bytes that are live now.
pub(in crate::trace) fn reset() {
    // Relaxed (all): as in `traced_memory`. First down, then up: so no bytes that are counted meanwhile are lost.
    for peak in [&INTERVAL_PEAK_BYTES, &PEAK_BYTES] {
        peak.store(0, Ordering::Relaxed);
        peak.fetch_max(CURRENT_BYTES.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

/// Whether there may be a new peak, to be kept or to be sampled.
#[inline]
pub(in crate::trace) fn is_near() -> bool {
    // Relaxed (both): a hint; the code that acts on it looks again.
    CURRENT_BYTES.load(Ordering::Relaxed) >= NEAR_BYTES.load(Ordering::Relaxed)
}

/// Whether there is a new peak to be kept.
pub(in crate::trace) fn is_due() -> bool {
    // Relaxed (both): as above.
    CURRENT_BYTES.load(Ordering::Relaxed) >= KEEP_BYTES.load(Ordering::Relaxed)
}

/// Whether there is a new peak that the timeline samples.
pub(in crate::trace) fn sample_is_due() -> bool {
    // Relaxed (both): as above.
    CURRENT_BYTES.load(Ordering::Relaxed) >= SAMPLE_BYTES.load(Ordering::Relaxed)
}

/// Sets the number of live bytes from which on a peak is kept; the highest number stands for never.
pub(in crate::trace) fn keep_from(bytes: u64) {
    // Relaxed: as above.
    KEEP_BYTES.store(bytes, Ordering::Relaxed);
    settle_near();
}

/// Sets the number of live bytes from which on a peak is sampled; the highest number stands for never.
pub(in crate::trace) fn sample_from(bytes: u64) {
    // Relaxed: as above.
    SAMPLE_BYTES.store(bytes, Ordering::Relaxed);
    settle_near();
}

/// Stores the lower of both limits. Two threads that each change one limit at the same time may leave an old value; a
/// timeline corrects it with each of its samples.
fn settle_near() {
    // Relaxed (all): as above.
    let near = KEEP_BYTES.load(Ordering::Relaxed).min(SAMPLE_BYTES.load(Ordering::Relaxed));
    NEAR_BYTES.store(near, Ordering::Relaxed);
}

/// The program's bytes now, and the most since the last call.
pub(in crate::trace) fn take_of_interval() -> (u64, u64) {
    // Relaxed (all): as in `traced_memory`.
    let current = CURRENT_BYTES.load(Ordering::Relaxed);
    (current, INTERVAL_PEAK_BYTES.swap(current, Ordering::Relaxed).max(current))
}
