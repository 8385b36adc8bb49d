//! Threads that start, allocate a little, and end: the cost of a thread for its allocator.

mod common;

use std::alloc::GlobalAlloc;
use std::thread;

use common::{alloc, for_each_allocator, free, layout};
use criterion::{BenchmarkId, Criterion};

fn started_and_ended(c: &mut Criterion, blocks: usize, name: &str, allocator: &(impl GlobalAlloc + Sync)) {
    let work = || {
        let blocks: Vec<_> = (0..blocks)
            .map(|number| {
                let layout = layout(8 * (1 + number % 16));
                (alloc(allocator, layout), layout)
            })
            .collect();
        for (start, layout) in blocks {
            free(allocator, start, layout);
        }
    };
    c.benchmark_group("thread start and end").bench_function(BenchmarkId::new(name, blocks), |b| {
        b.iter(|| thread::scope(|scope| scope.spawn(work).join()).expect("it does not panic"));
    });
}

fn main() {
    let c = &mut common::criterion();
    for blocks in [0, 1, 1_000] {
        for_each_allocator!(started_and_ended(c, blocks));
    }
    c.final_summary();
}
