//! A timeline's samples while another thread allocates and frees.
//!
//! Only the lock is the product's here. The rest repeats in small `trace/record/blocks.rs` (`insert`, `remove`,
//! `begin_interval`) and `trace/record/timeline.rs` (`take`).

use std::sync::Arc;

use loom::thread;

use crate::lock::Lock;
use crate::{check, check_bounded};

const INTERVALS: usize = 4;

/// Sums of changes by the interval that the blocks are from.
type Changes = [i32; INTERVALS];

/// A shard of the table, with one block.
struct Shard {
    interval_now: usize,
    birth: Option<usize>,
    changes: Changes,
}

/// A timeline's recorder: the interval that is recorded, and what all samples say together.
struct Recorder {
    interval: usize,
    told: Changes,
}

struct Timeline {
    recorder: Lock<Recorder>,
    shards: [Lock<Shard>; 2],
}

impl Timeline {
    fn new() -> Self {
        let shard = || Lock::new(Shard { interval_now: 1, birth: None, changes: [0; INTERVALS] });
        Self { recorder: Lock::new(Recorder { interval: 1, told: [0; INTERVALS] }), shards: [shard(), shard()] }
    }

    fn insert(&self, shard: usize) {
        self.shards[shard].lock().with(|shard| {
            shard.birth = Some(shard.interval_now);
            shard.changes[shard.interval_now] += 1;
        });
    }

    fn remove(&self, shard: usize) {
        self.shards[shard].lock().with(|shard| {
            let birth = shard.birth.take().expect("its own block");
            shard.changes[birth] -= 1;
        });
    }

    /// Takes a sample; what all have told so far.
    fn sample(&self) -> Changes {
        self.recorder.lock().with(|recorder| {
            recorder.interval += 1;
            for shard in &self.shards {
                let changes = shard.lock().with(|shard| {
                    shard.interval_now = recorder.interval;
                    core::mem::take(&mut shard.changes)
                });
                recorder.told.iter_mut().zip(changes).for_each(|(told, change)| *told += change);
            }
            recorder.told
        })
    }
}

#[test]
fn every_change_is_told_once_and_a_free_under_its_block_s_birth() {
    check(|| {
        let timeline = Arc::new(Timeline::new());
        let program = {
            let timeline = Arc::clone(&timeline);
            thread::spawn(move || {
                timeline.insert(0);
                timeline.remove(0);
                timeline.insert(1);
            })
        };
        // No free is told before its allocation.
        assert!(timeline.sample().iter().all(|&told| told >= 0));
        program.join().unwrap();
        let told = timeline.sample();
        let birth = timeline.shards[1].lock().with(|shard| shard.birth.expect("it lives"));
        let mut expected = [0; INTERVALS];
        expected[birth] = 1;
        assert_eq!(told, expected);
    });
}

#[test]
fn two_threads_that_take_samples_tell_each_change_once() {
    check_bounded(3, || {
        let timeline = Arc::new(Timeline::new());
        let at_peak = {
            let timeline = Arc::clone(&timeline);
            thread::spawn(move || {
                timeline.insert(0);
                timeline.sample();
                timeline.remove(0);
            })
        };
        timeline.sample();
        at_peak.join().unwrap();
        assert_eq!(timeline.sample(), [0; INTERVALS]);
    });
}
