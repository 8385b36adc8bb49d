//! Many blocks of one size, freed in reverse order, in order of allocation, or at random.

mod common;

use std::alloc::GlobalAlloc;

use common::{alloc, for_each_allocator, free, layout, random};
use criterion::{Criterion, Throughput};

const BLOCK_BYTES: usize = 48;

#[derive(Clone, Copy, Debug)]
enum Order {
    Lifo,
    Fifo,
    Random,
}

impl Order {
    fn positions(self, count: usize) -> Vec<usize> {
        let mut positions: Vec<usize> = (0..count).collect();
        match self {
            Self::Lifo => positions.reverse(),
            Self::Fifo => {}
            Self::Random => {
                let mut state = 1;
                for last in (1..count).rev() {
                    positions.swap(last, random(&mut state) % (last + 1));
                }
            }
        }
        positions
    }
}

fn freed_in(c: &mut Criterion, order: Order, count: usize, name: &str, allocator: &impl GlobalAlloc) {
    let layout = layout(BLOCK_BYTES);
    let positions = order.positions(count);
    let mut blocks = vec![std::ptr::null_mut(); count];
    let mut group = c.benchmark_group(format!("{count} blocks freed in {order:?} order"));
    group.throughput(Throughput::Elements(count as u64));
    if count >= 1_000_000 {
        group.sample_size(10);
    }
    group.bench_function(name, |b| {
        b.iter(|| {
            blocks.fill_with(|| alloc(allocator, layout));
            for &position in &positions {
                free(allocator, blocks[position], layout);
            }
        });
    });
}

fn main() {
    let c = &mut common::criterion();
    for count in [1_000, 100_000] {
        for order in [Order::Lifo, Order::Fifo, Order::Random] {
            for_each_allocator!(freed_in(c, order, count));
        }
    }
    for_each_allocator!(freed_in(c, Order::Random, 1_000_000));
    c.final_summary();
}
