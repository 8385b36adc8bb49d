//! The measured part of a workload.

use crate::{counting, usage};
use peers::sample::Sample;
use std::time::Instant;

/// A run that was measured, before its sample is complete.
#[derive(Debug)]
pub struct Outcome {
    sample: Sample,
}

/// Runs `body` and measures it. `body` returns its checksum and what has to live until the RSS
/// has been read.
pub fn measure_keeping<T>(operations: usize, body: impl FnOnce() -> (u64, T)) -> (Outcome, T) {
    let start_rss = usage::rss();
    counting::start();
    let before = usage::usage();
    let clock = Instant::now();
    let (checksum, kept) = body();
    let nanos = clock.elapsed().as_nanos() as u64;
    let after = usage::usage();
    let counts = counting::counts();
    let sample = Sample {
        nanos,
        operations: operations as u64,
        checksum,
        user_nanos: after.user_nanos - before.user_nanos,
        system_nanos: after.system_nanos - before.system_nanos,
        faults: after.faults - before.faults,
        waits: after.waits - before.waits,
        start_rss,
        peak_rss: 0,
        end_rss: usage::rss(),
        live_bytes: 0,
        requests: counts.requests,
        small_requests: counts.small_requests,
        requested_bytes: counts.bytes,
        small_bytes: counts.small_bytes,
        counted_live_bytes: counts.peak_live_bytes,
    };
    (Outcome { sample }, kept)
}

/// Runs `body` and measures it; it returns its checksum.
pub fn measure(operations: usize, body: impl FnOnce() -> u64) -> Outcome {
    measure_keeping(operations, || (body(), ())).0
}

impl Outcome {
    /// Notes what the workload knows to be live at its peak.
    pub fn with_live_bytes(mut self, bytes: usize) -> Self {
        self.sample.live_bytes = bytes as u64;
        self
    }

    /// Reads RSS again: the end is now.
    pub fn ending_now(mut self) -> Self {
        self.sample.end_rss = usage::rss();
        self
    }

    /// Takes the peak RSS of other processes in place of this one's.
    pub fn with_peak_rss(mut self, bytes: u64) -> Self {
        self.sample.peak_rss = bytes;
        self.sample.end_rss = bytes;
        self
    }

    /// The finished sample.
    pub fn finish(mut self) -> Sample {
        if self.sample.peak_rss == 0 {
            // The kernel counts per CPU and adds up late: its peak may lag behind a reading.
            self.sample.peak_rss = usage::peak_rss().max(self.sample.end_rss);
        }
        self.sample
    }
}
