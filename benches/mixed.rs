//! A mix of sizes as in programs: many small blocks and few larger ones, in a live set that is replaced at random.

mod common;

use std::alloc::{GlobalAlloc, Layout};

use common::{alloc, for_each_allocator, free, layout, random};
use criterion::{Criterion, Throughput};

const REPLACED: usize = 10_000;

/// Half of the blocks are at most 32 bytes, a quarter at most 64, and so on up to 512.
fn mixed_layout(state: &mut u64) -> Layout {
    let limit = 32 << random(state).trailing_ones().min(4);
    layout(1 + random(state) % limit)
}

fn at_once(c: &mut Criterion, name: &str, allocator: &impl GlobalAlloc) {
    let mut state = 1;
    let layouts: Vec<Layout> = (0..REPLACED).map(|_| mixed_layout(&mut state)).collect();
    let mut group = c.benchmark_group("mixed sizes, freed at once");
    group.throughput(Throughput::Elements(REPLACED as u64));
    group.bench_function(name, |b| {
        b.iter(|| {
            for &layout in &layouts {
                free(allocator, alloc(allocator, layout), layout);
            }
        });
    });
}

fn replaced(c: &mut Criterion, live: usize, name: &str, allocator: &impl GlobalAlloc) {
    let mut state = 2;
    let mut blocks: Vec<(*mut u8, Layout)> = (0..live)
        .map(|_| {
            let layout = mixed_layout(&mut state);
            (alloc(allocator, layout), layout)
        })
        .collect();
    let mut group = c.benchmark_group(format!("mixed sizes, replaced among {live} live"));
    group.throughput(Throughput::Elements(REPLACED as u64));
    group.bench_function(name, |b| {
        b.iter(|| {
            for _ in 0..REPLACED {
                let place = &mut blocks[random(&mut state) % live];
                free(allocator, place.0, place.1);
                let layout = mixed_layout(&mut state);
                *place = (alloc(allocator, layout), layout);
            }
        });
    });
    for (start, layout) in blocks {
        free(allocator, start, layout);
    }
}

fn main() {
    let c = &mut common::criterion();
    for_each_allocator!(at_once(c));
    for live in [1_000, 100_000] {
        for_each_allocator!(replaced(c, live));
    }
    c.final_summary();
}
