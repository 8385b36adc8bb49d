//! One block is allocated and freed at once, class by class: the shortest way through the allocator.

mod common;

use std::alloc::GlobalAlloc;

use common::{alloc, for_each_allocator, free, layout};
use criterion::{BenchmarkId, Criterion, Throughput};
use pymalloc::{CLASS_COUNT, SMALL_MAX_BYTES};

fn one_class(c: &mut Criterion, name: &str, allocator: &impl GlobalAlloc) {
    let mut group = c.benchmark_group("one block alloc+free");
    for bytes in [8, 16, 24, 64, 128, 256, SMALL_MAX_BYTES] {
        let layout = layout(bytes);
        group.bench_function(BenchmarkId::new(name, bytes), |b| {
            b.iter(|| free(allocator, alloc(allocator, layout), layout));
        });
    }
}

fn all_classes(c: &mut Criterion, name: &str, allocator: &impl GlobalAlloc) {
    let mut group = c.benchmark_group("64 blocks alloc+free, one of each class");
    group.throughput(Throughput::Elements(CLASS_COUNT as u64));
    group.bench_function(name, |b| {
        b.iter(|| {
            let blocks: [*mut u8; CLASS_COUNT] = std::array::from_fn(|class| alloc(allocator, layout(8 * (class + 1))));
            for (class, start) in blocks.into_iter().enumerate() {
                free(allocator, start, layout(8 * (class + 1)));
            }
        });
    });
}

fn main() {
    let c = &mut common::criterion();
    for_each_allocator!(one_class(c));
    for_each_allocator!(all_classes(c));
    c.final_summary();
}
