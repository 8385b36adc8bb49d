//! Blocks that one thread allocates and another frees.

mod common;

use std::alloc::GlobalAlloc;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Instant;

use common::{alloc, for_each_allocator, free, layout};
use criterion::{Criterion, Throughput};

const BLOCK_BYTES: usize = 64;
/// Blocks in a batch: enough that the channel's cost does not matter.
const BATCH_BLOCKS: usize = 1_000;
/// Batches in the channel: enough that producer and consumer seldom wait for each other, and few enough that memory is
/// reused.
const BATCHES_UNDER_WAY: usize = 4;

/// A batch of blocks, which only one thread at a time uses.
struct Batch([*mut u8; BATCH_BLOCKS]);

// SAFETY: the consumer only frees the blocks, and any thread may do that.
unsafe impl Send for Batch {}

fn produced_and_consumed(c: &mut Criterion, name: &str, allocator: &(impl GlobalAlloc + Sync)) {
    let layout = layout(BLOCK_BYTES);
    let mut group = c.benchmark_group(format!("{BATCH_BLOCKS} blocks from producer to consumer"));
    group.throughput(Throughput::Elements(BATCH_BLOCKS as u64));
    group.bench_function(name, |b| {
        b.iter_custom(|batches| {
            let (sender, receiver) = sync_channel::<Box<Batch>>(BATCHES_UNDER_WAY);
            thread::scope(|scope| {
                let consumer = scope.spawn(move || {
                    for batch in receiver {
                        for start in batch.0 {
                            free(allocator, start, layout);
                        }
                    }
                });
                let started = Instant::now();
                for _ in 0..batches {
                    let batch = Batch(std::array::from_fn(|_| alloc(allocator, layout)));
                    sender.send(Box::new(batch)).expect("the consumer runs");
                }
                drop(sender);
                consumer.join().expect("it does not panic");
                started.elapsed()
            })
        });
    });
}

fn main() {
    let c = &mut common::criterion();
    for_each_allocator!(produced_and_consumed(c));
    c.final_summary();
}
