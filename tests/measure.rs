//! `measure`, tested on programs whose allocations are known exactly.

mod common;

use std::alloc::{Layout, alloc_zeroed, dealloc, realloc};
use std::collections::BTreeMap;
use std::hint::black_box;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Barrier;
use std::thread;

#[cfg(all(target_os = "linux", not(pymalloc_bypass)))]
use common::alone;
use common::{Block, Rng};
use pymalloc::measure::Measured;
use pymalloc::{Pymalloc, measure, usable_bytes};

#[global_allocator]
static GLOBAL: Pymalloc = Pymalloc::new();

/// Bytes that count for a block of `bytes`: those of its class, or, if every request is large, the bytes asked for.
fn block(bytes: usize) -> usize {
    if cfg!(pymalloc_bypass) { bytes } else { usable_bytes(Layout::array::<u8>(bytes).expect("small")) }
}

fn allocated(measured: Measured) -> (usize, usize) {
    (measured.blocks_allocated, measured.bytes_allocated)
}

fn live(measured: Measured) -> (isize, usize) {
    (measured.blocks_live, measured.bytes_live.try_into().expect("not below 0"))
}

fn peak(measured: Measured) -> (usize, usize) {
    (measured.blocks_peak, measured.bytes_peak)
}

#[test]
fn nothing_is_nothing() {
    assert_eq!(measure(|| ()).1, Measured::default());
}

#[test]
fn the_deep_size_of_a_value_is_what_building_it_leaves_alive() {
    let ((list, junk), measured) = measure(|| {
        let junk = black_box(Box::new([0_u8; 100]));
        let list: Vec<Box<[u8; 20]>> = (0..30).map(|n| black_box(Box::new([n; 20]))).collect();
        drop(black_box(vec![1_u8; 5000]));
        (list, junk)
    });
    assert_eq!(allocated(measured), (33, block(100) + block(240) + 30 * block(20) + 5000));
    assert_eq!(live(measured), (32, block(100) + block(240) + 30 * block(20)));
    assert_eq!(peak(measured), (33, measured.bytes_allocated));
    let ((), freed) = measure(|| drop((list, junk)));
    assert_eq!((freed.blocks_live, freed.bytes_live), (-32, -measured.bytes_live));
    assert_eq!((allocated(freed), peak(freed)), ((0, 0), (0, 0)));
}

#[test]
fn blocks_of_every_size_zeroed_and_not_small_and_large_are_counted() {
    for bytes in (1..1200).step_by(7) {
        for zeroed in [false, true] {
            let (kept, measured) = measure(|| black_box(if zeroed { vec![0_u8; bytes] } else { vec![1; bytes] }));
            let blocks = if bytes <= 512 { block(bytes) } else { bytes };
            assert_eq!((allocated(measured), live(measured)), ((1, blocks), (1, blocks)), "{bytes} bytes");
            drop(kept);
        }
    }
}

#[test]
fn a_peak_between_start_and_end_is_seen() {
    let (_, measured) = measure(|| {
        for _ in 0..5 {
            drop(black_box(vec![Box::new(7_u64); 50]));
        }
    });
    assert_eq!(live(measured), (0, 0));
    assert_eq!(measured.blocks_peak, 51);
    assert_eq!(measured.bytes_peak, block(400) + 50 * block(8));
    // `vec!` moves the first box in and clones it for the others.
    assert_eq!(measured.blocks_allocated, 5 * 51);
}

#[test]
fn a_block_that_is_reallocated_counts_by_the_way_it_goes() {
    let layout = |bytes| Layout::from_size_align(bytes, 8).expect("small");
    let ((), measured) = measure(|| {
        // SAFETY: sizes are not 0, and each block is reallocated and freed with the layout it has.
        unsafe {
            let mut place = alloc_zeroed(layout(20));
            // The same class.
            place = realloc(place, layout(20), 24);
            // Another class: a copy.
            place = realloc(place, layout(24), 200);
            // From a pool to the large allocator, and within it.
            place = realloc(place, layout(200), 10_000);
            place = realloc(place, layout(10_000), 50_000);
            place = realloc(place, layout(50_000), 30_000);
            dealloc(black_box(place), layout(30_000));
        }
    });
    let (blocks, bytes) = allocated(measured);
    if cfg!(pymalloc_bypass) {
        assert_eq!((blocks, bytes), (6, 20 + 24 + 200 + 10_000 + 50_000 + 30_000));
    } else {
        assert_eq!((blocks, bytes), (5, 24 + 200 + 10_000 + 50_000 + 30_000));
    }
    assert_eq!(live(measured), (0, 0));
    assert_eq!(measured.bytes_peak, 50_000);
}

/// The counts of a model of the allocator.
#[derive(Default)]
struct Model {
    measured: Measured,
}

impl Model {
    fn bytes(layout: Layout) -> usize {
        if cfg!(pymalloc_bypass) { layout.size() } else { usable_bytes(layout) }
    }

    fn alloc(&mut self, layout: Layout) {
        let seen = &mut self.measured;
        seen.blocks_allocated += 1;
        seen.bytes_allocated += Self::bytes(layout);
        seen.blocks_live += 1;
        seen.bytes_live += Self::bytes(layout).cast_signed();
        seen.blocks_peak = seen.blocks_peak.max(seen.blocks_live.max(0).cast_unsigned());
        seen.bytes_peak = seen.bytes_peak.max(seen.bytes_live.max(0).cast_unsigned());
    }

    fn free(&mut self, layout: Layout) {
        self.measured.blocks_live -= 1;
        self.measured.bytes_live -= Self::bytes(layout).cast_signed();
    }
}

#[test]
fn programs_of_operations_are_counted_as_a_model_counts_them() {
    for seed in 0..20 {
        let mut rng = Rng::new(seed);
        // Some blocks from before the measurement, which the program frees, too.
        let mut blocks: Vec<Block> = Vec::with_capacity(4000);
        blocks.extend((0..100).map(|serial| Block::random(serial, &mut rng)));
        let mut model = Model::default();
        let ((), measured) = measure(|| {
            for serial in 0..3000 {
                if rng.below(5) < 3 || blocks.is_empty() {
                    let block = Block::random(serial, &mut rng);
                    model.alloc(block.layout());
                    blocks.push(block);
                } else {
                    let block = blocks.swap_remove(rng.below(blocks.len()));
                    model.free(block.layout());
                    drop(block);
                }
                if cfg!(not(pymalloc_bypass)) && rng.below(500) == 0 {
                    // Neither call changes what the program holds.
                    pymalloc::flush_thread_cache();
                    pymalloc::purge();
                }
            }
        });
        assert_eq!(measured, model.measured, "seed {seed}");
    }
}

#[test]
fn measurements_nest() {
    let ((inner, first, second), outer) = measure(|| {
        let first = black_box(Box::new([1_u8; 100]));
        let ((kept, ()), inner) = measure(|| (black_box(Box::new([2_u8; 48])), drop(black_box(vec![3_u8; 1000]))));
        (inner, first, kept)
    });
    assert_eq!((allocated(inner), live(inner)), ((2, 1048), (1, 48)));
    assert_eq!(inner.bytes_peak, 1048);
    assert_eq!((allocated(outer), live(outer)), ((3, 1048 + block(100)), (2, 48 + block(100))));
    assert_eq!(outer.bytes_peak, 1048 + block(100));
    drop((first, second));
}

#[test]
fn each_thread_measures_itself() {
    let barrier = Barrier::new(4);
    thread::scope(|scope| {
        for number in 1..=4_usize {
            let barrier = &barrier;
            scope.spawn(move || {
                for _ in 0..50 {
                    barrier.wait();
                    let (kept, measured) =
                        measure(|| (0..number * 100).map(|n| black_box(Box::new([n; 5]))).collect::<Vec<_>>());
                    assert_eq!(allocated(measured).0, number * 100 + 1);
                    assert_eq!(live(measured), (number as isize * 100 + 1, number * 100 * (40 + 8)));
                    drop(kept);
                }
            });
        }
    });
}

#[test]
fn a_panic_ends_the_measurement_and_the_one_around_it_goes_on() {
    let ((), outer) = measure(|| {
        let caught = catch_unwind(AssertUnwindSafe(|| {
            measure(|| {
                let _lost = black_box(Box::new([0_u8; 64]));
                std::panic::resume_unwind(Box::new("a payload"));
            });
        }));
        assert!(caught.is_err());
        drop(black_box(Box::new([0_u8; 64])));
    });
    // Both arrays and the panic's payload, whose box has a size of its own.
    assert!(outer.blocks_allocated >= 3, "{outer:?}");
    assert_eq!(live(outer).0, 0);
    let (kept, after) = measure(|| black_box(Box::new(1_u64)));
    assert_eq!(allocated(after), (1, 8));
    drop(kept);
}

#[test]
fn a_map_is_as_large_as_its_nodes_and_strings() {
    let (map, measured) = measure(|| (0..1000).map(|n| (n, n.to_string())).collect::<BTreeMap<u32, String>>());
    // Nodes hold entries of 4 + 24 bytes; how full they are depends on the map.
    let strings: usize = map.values().map(|text| block(text.capacity())).sum();
    let bytes = live(measured).1 - strings;
    assert!((1000 * 28..1000 * 60).contains(&bytes), "{bytes}");
    drop(map);
}

/// A thread that the C library started has no cache yet; `measure` gives it one.
#[cfg(all(target_os = "linux", not(pymalloc_bypass)))]
#[test]
fn a_thread_whose_first_block_is_measured_leaves_none_behind() {
    extern "C" fn first(_: *mut libc::c_void) -> *mut libc::c_void {
        let (block, measured) = measure(|| Box::new(0_u64));
        assert_eq!(allocated(measured), (1, 8));
        drop(block);
        std::ptr::null_mut()
    }
    alone("a_thread_whose_first_block_is_measured_leaves_none_behind", || {
        let before = pymalloc::allocated_blocks();
        // SAFETY: the thread is joined, and its function takes no argument.
        unsafe {
            let mut thread: libc::pthread_t = std::mem::zeroed();
            let (attributes, argument) = (std::ptr::null(), std::ptr::null_mut());
            assert_eq!(libc::pthread_create(&raw mut thread, attributes, first, argument), 0);
            assert_eq!(libc::pthread_join(thread, std::ptr::null_mut()), 0);
        }
        assert_eq!(pymalloc::allocated_blocks(), before);
    });
}
