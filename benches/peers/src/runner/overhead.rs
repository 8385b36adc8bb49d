//! Memory overhead: the memory of a process beyond the bytes that its program asked for.
//!
//! It is peak RSS, less the bytes asked for and live at the peak (as the counting worker counted them), less start-up
//! RSS. Start-up RSS is the peak RSS of the same worker with the same allocator when it only starts and ends
//! (`start-stop`). The rest is the allocator's memory, and some that is the same for all allocators: code of the
//! workload, stacks, and in `peak-*` its own arrays.
//!
//! Where little is allocated, the rest is noise, and may be negative, so that it has no ratio. The rule: an overhead
//! below [`NOISE_BYTES`] counts as [`NOISE_BYTES`], for every allocator. Two overheads that are both below compare as
//! equal. The CSV has the bytes as measured, negative ones included.

/// The difference in RSS, in bytes, that one program may have from run to run.
pub const NOISE_BYTES: i64 = 256 << 10;

/// In a workload with at least this many live bytes, the rule about noise hardly ever applies.
pub const LARGE_HEAP_BYTES: u64 = 4 << 20;

/// Bytes beyond those asked for; negative if noise is larger than the rest.
pub fn overhead(peak_rss: u64, live_bytes: u64, start_up_rss: u64) -> i64 {
    // Sizes of a process are far below half of an i64's range.
    peak_rss as i64 - live_bytes as i64 - start_up_rss as i64
}

/// An overhead as it enters ratios and means: never below [`NOISE_BYTES`].
pub fn comparable_overhead(overhead: i64) -> f64 {
    overhead.max(NOISE_BYTES) as f64
}

#[cfg(test)]
mod tests {
    use super::{NOISE_BYTES, comparable_overhead, overhead};

    const MIB: u64 = 1 << 20;

    #[test]
    fn what_was_asked_for_and_what_starting_takes_is_no_overhead() {
        assert_eq!(overhead(110 * MIB, 100 * MIB, 4 * MIB), 6 << 20);
        assert_eq!(overhead(5 * MIB, 2 * MIB, 4 * MIB), -(1 << 20));
    }

    #[test]
    fn an_overhead_below_the_noise_counts_as_the_noise() {
        let noise = NOISE_BYTES as f64;
        assert_eq!(comparable_overhead(-5_000_000), noise);
        assert_eq!(comparable_overhead(0), noise);
        assert_eq!(comparable_overhead(NOISE_BYTES), noise);
        assert_eq!(comparable_overhead(NOISE_BYTES + 1), noise + 1.0);
    }
}
