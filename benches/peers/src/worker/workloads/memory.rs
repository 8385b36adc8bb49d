//! How much memory a heap takes: while it is full, and after it has been emptied.

use crate::measure::{Outcome, measure_keeping};
use crate::offheap::Offheap;
use crate::random::Random;
use crate::workloads::loops::fill;
use peers::params::{
    DENSITY_BYTES, GROWTH_BYTES, MEAN_BYTES, MIXED_BYTES, PEAK_BYTES, SEED, SETTLE_BLOCKS,
    SETTLE_MILLIS, SURVIVOR_ONE_IN, Scale,
};
use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::hint::black_box;
use std::time::Duration;
use std::{ptr, thread};

/// Blocks that are linked through their own first word: nothing else has to be stored, so that
/// RSS is the blocks and the allocator's overhead. They are never freed; the process ends.
struct Pile {
    top: *mut *mut u8,
    blocks: u64,
}

/// A block whose every byte is written: else lazily mapped memory would look dense.
#[inline]
fn touched_block(layout: Layout) -> *mut u8 {
    // SAFETY: no size of the workloads is 0.
    let block = unsafe { alloc(layout) };
    if block.is_null() {
        handle_alloc_error(layout);
    }
    // SAFETY: the block has that many bytes, and it is ours.
    unsafe { block.write_bytes(1, layout.size()) };
    black_box(block)
}

impl Pile {
    const EMPTY: Self = Self { top: ptr::null_mut(), blocks: 0 };

    #[inline]
    fn grow(&mut self, bytes: usize) {
        let layout = Layout::from_size_align(bytes, 8).expect("a size of the workloads");
        let block = touched_block(layout).cast::<*mut *mut u8>();
        // SAFETY: the block has 8 bytes or more, is aligned to 8, and it is ours.
        unsafe { block.write(self.top) };
        self.top = block.cast();
        self.blocks += 1;
    }
}

pub fn density<const BYTES: usize>(scale: Scale) -> Outcome {
    let count = scale.of(DENSITY_BYTES) / BYTES;
    let (outcome, pile) = measure_keeping(count, || {
        let mut pile = Pile::EMPTY;
        for _ in 0..count {
            pile.grow(BYTES);
        }
        (pile.blocks, pile)
    });
    black_box(pile.top);
    outcome.with_live_bytes(count * BYTES)
}

pub fn density_mixed(scale: Scale) -> Outcome {
    grow_mixed(scale.of(DENSITY_BYTES))
}

pub fn growth_mixed(scale: Scale) -> Outcome {
    grow_mixed(scale.of(GROWTH_BYTES))
}

fn grow_mixed(total_bytes: usize) -> Outcome {
    let mut random = Random::new(SEED);
    // A block must hold the link: 8 bytes or more, which all of these are.
    let sizes: Vec<usize> = (0..1 << 16).map(|_| random.pick(&MIXED_BYTES)).collect();
    let operations = total_bytes / MEAN_BYTES;
    let (outcome, (live_bytes, pile)) = measure_keeping(operations, || {
        let mut pile = Pile::EMPTY;
        let mut live_bytes = 0;
        for &bytes in sizes.iter().cycle() {
            if live_bytes >= total_bytes {
                break;
            }
            pile.grow(bytes);
            live_bytes += bytes;
        }
        (pile.blocks, (live_bytes, pile))
    });
    black_box(pile.top);
    outcome.with_live_bytes(live_bytes)
}

pub fn peak_shrink(scale: Scale) -> Outcome {
    peak(scale, |index| index % SURVIVOR_ONE_IN == 0)
}

pub fn peak_free(scale: Scale) -> Outcome {
    peak(scale, |_| false)
}

/// Fills a heap, frees all that does not survive, in random order, waits, and reads RSS.
fn peak(scale: Scale, survives: impl Fn(usize) -> bool) -> Outcome {
    let count = scale.of(PEAK_BYTES) / MEAN_BYTES;
    let mut random = Random::new(SEED);
    let mut size_numbers = Offheap::<u8>::new(count);
    let mut order = Offheap::<u32>::new(count);
    let mut blocks = Offheap::<*mut u8>::new(count);
    let mut live_bytes = 0;
    for index in 0..count {
        size_numbers[index] = random.below(MIXED_BYTES.len()) as u8;
        live_bytes += MIXED_BYTES[usize::from(size_numbers[index])];
        // Each number goes to a random place among those before it: a shuffle from the inside.
        let place = random.below(index + 1);
        order[index] = order[place];
        order[place] = index as u32;
    }
    let layout = |index: usize| {
        let bytes = MIXED_BYTES[usize::from(size_numbers[index])];
        Layout::from_size_align(bytes, 8).expect("a size of the workloads")
    };
    let (outcome, ()) = measure_keeping(count, || {
        for (index, block) in blocks.iter_mut().enumerate() {
            *block = touched_block(layout(index));
        }
        let mut freed = 0;
        for &index in &*order {
            let index = index as usize;
            if !survives(index) {
                // SAFETY: allocated above with this layout, and `order` names each block once.
                unsafe { dealloc(blocks[index], layout(index)) };
                freed += 1;
            }
        }
        (freed, ())
    });
    drop((size_numbers, order, blocks));
    thread::sleep(Duration::from_millis(scale.of(SETTLE_MILLIS) as u64));
    drop(fill(&mut random, &MIXED_BYTES, SETTLE_BLOCKS));
    outcome.ending_now().with_live_bytes(live_bytes)
}
