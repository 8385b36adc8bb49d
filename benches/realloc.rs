//! Blocks that grow: by doubling, as vectors do, and by a few bytes, as strings do.

mod common;

use std::alloc::GlobalAlloc;
use std::hint::black_box;

use common::{alloc, for_each_allocator, free, layout};
use criterion::Criterion;

fn grown(c: &mut Criterion, group: &str, sizes: &[usize], name: &str, allocator: &impl GlobalAlloc) {
    c.benchmark_group(group).bench_function(name, |b| {
        b.iter(|| {
            let mut block = alloc(allocator, layout(sizes[0]));
            for pair in sizes.windows(2) {
                // SAFETY: the block has the size of the step before, and the new size is not 0.
                block = black_box(unsafe { allocator.realloc(block, layout(pair[0]), pair[1]) });
                assert!(!block.is_null());
            }
            free(allocator, block, layout(sizes[sizes.len() - 1]));
        });
    });
}

fn main() {
    let c = &mut common::criterion();
    let doubled: Vec<usize> = (3..=9).map(|shift| 1 << shift).collect();
    let doubled_to_large: Vec<usize> = (3..=12).map(|shift| 1 << shift).collect();
    let by_two: Vec<usize> = (1..=256).map(|half| 2 * half).collect();
    for (group, sizes) in [
        ("realloc doubling 8 to 512", doubled),
        ("realloc doubling 8 to 4096", doubled_to_large),
        ("realloc by 2 bytes up to 512", by_two),
    ] {
        for_each_allocator!(grown(c, group, &sizes));
    }
    c.final_summary();
}
