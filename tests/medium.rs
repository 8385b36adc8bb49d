//! `Pymalloc<Medium>`: requests above 512 bytes come from the arenas up to 1 MiB, and only those beyond do not.
#![cfg(not(pymalloc_bypass))]

mod common;

use std::alloc::{GlobalAlloc, Layout, System, alloc, alloc_zeroed, dealloc, realloc};
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::thread;

use common::{Block, Rng, abort_of, alone};
use pymalloc::{Medium, POOL_BYTES, Pymalloc, RUN_MAX_BYTES, flush_thread_cache, purge, self_check, stats};

#[global_allocator]
static GLOBAL: Pymalloc<Medium<Counting>> = Pymalloc::with_large(Medium::with_large(Counting));

/// Requests that came to the next allocator, and the smallest of them.
static CALLS: AtomicUsize = AtomicUsize::new(0);
static SMALLEST: AtomicUsize = AtomicUsize::new(usize::MAX);

struct Counting;

// SAFETY: forwards to `System`.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.fetch_add(1, Ordering::Relaxed);
        let rounded = layout.size().next_multiple_of(layout.align());
        SMALLEST.fetch_min(rounded, Ordering::Relaxed);
        // SAFETY: the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: the caller's.
        unsafe { System.dealloc(start, layout) }
    }
}

/// A size of 1 byte to 2 MiB, small ones more often.
fn bytes(rng: &mut Rng) -> usize {
    let shift = 4 + rng.below(18);
    1 + rng.below(1 << shift)
}

fn layout(rng: &mut Rng) -> Layout {
    Layout::from_size_align(bytes(rng), 1 << rng.below(14)).expect("a power of two")
}

#[test]
fn blocks_of_all_sizes_keep_their_contents_through_moves_and_frees_by_any_thread() {
    alone("blocks_of_all_sizes_keep_their_contents_through_moves_and_frees_by_any_thread", || {
        let (sender, receiver) = channel::<Vec<Block>>();
        let freer = thread::spawn(move || receiver.into_iter().map(|blocks| blocks.len()).sum::<usize>());
        let workers: Vec<_> = (0..3)
            .map(|seed| {
                let sender = sender.clone();
                thread::spawn(move || {
                    let mut rng = Rng::new(seed);
                    let mut live: Vec<Block> = Vec::new();
                    for serial in 0..if cfg!(debug_assertions) { 600 } else { 3_000 } {
                        let layout = layout(&mut rng);
                        let block = if rng.below(4) == 0 {
                            Block::try_zeroed(serial, layout)
                        } else {
                            Block::try_new(serial, layout)
                        };
                        live.push(block.expect("memory"));
                        let place = rng.below(live.len());
                        match rng.below(8) {
                            0..=2 => drop(live.swap_remove(place)),
                            3 => assert!(live[place].try_resize(bytes(&mut rng))),
                            4 if live.len() > 40 => sender.send(live.split_off(30)).expect("it listens"),
                            _ => {}
                        }
                    }
                })
            })
            .collect();
        drop(sender);
        workers.into_iter().for_each(|worker| worker.join().expect("no panic"));
        assert!(freer.join().expect("no panic") > 0);
        let stats = self_check().expect("sound");
        assert!(stats.medium.iter().map(|class| class.pools).sum::<usize>() > 0);
        assert!(SMALLEST.load(Ordering::Relaxed) > RUN_MAX_BYTES - POOL_BYTES, "only what is beyond goes on");
        assert!(CALLS.load(Ordering::Relaxed) > 0, "and that does");
    });
}

#[test]
fn a_vector_grows_through_pools_runs_and_beyond() {
    alone("a_vector_grows_through_pools_runs_and_beyond", || {
        let mut numbers = Vec::new();
        let mut moves = 0;
        let mut place = numbers.as_ptr();
        for number in 0..600_000_u64 {
            numbers.push(number);
            moves += usize::from(numbers.as_ptr() != std::mem::replace(&mut place, numbers.as_ptr()));
        }
        assert!(numbers.iter().enumerate().all(|(index, &number)| number == index as u64));
        assert!(moves < 20, "{moves} moves");
        numbers.truncate(10);
        numbers.shrink_to_fit();
        assert_eq!(numbers, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    });
}

#[test]
fn statistics_tell_of_medium_blocks_and_runs() {
    alone("statistics_tell_of_medium_blocks_and_runs", || {
        let before = stats();
        let blocks: Vec<Vec<u8>> = (0..50).map(|_| Vec::with_capacity(black_box(8 << 10))).collect();
        let runs: Vec<Vec<u8>> = (0..3).map(|_| Vec::with_capacity(black_box(100 << 10))).collect();
        let now = stats();
        let class = now.medium.iter().position(|class| class.block_bytes == 8 << 10).expect("a class");
        assert!(now.medium[class].blocks_live >= before.medium[class].blocks_live + 50);
        assert_eq!(now.runs_live, before.runs_live + 3);
        assert_eq!(now.bytes.runs, before.bytes.runs + 3 * 4 * POOL_BYTES);
        assert_eq!(now.bytes.sum(), now.bytes.arenas);
        assert!(now.to_string().contains("# bytes in runs of pools"));
        let picture = pymalloc::heap_map().to_svg();
        assert!(picture.contains("8192 B") && picture.contains("runs, one block each"));
        assert!(pymalloc::allocated_blocks() >= 53);
        drop((blocks, runs));
        let (_, measured) = pymalloc::measure(|| Vec::<u8>::with_capacity(black_box(5000)));
        assert_eq!(measured.bytes_allocated, 5000);
    });
}

#[test]
fn what_was_freed_goes_back_to_the_os() {
    alone("what_was_freed_goes_back_to_the_os", || {
        purge();
        let before = stats();
        let mut live: Vec<Vec<u8>> = Vec::new();
        for kib in [1, 3, 20, 70, 700].repeat(20) {
            live.push(vec![1; kib << 10]);
        }
        assert!(
            stats().bytes.arenas - stats().bytes.untouched > before.bytes.arenas - before.bytes.untouched + (10 << 20)
        );
        drop(live);
        flush_thread_cache();
        purge();
        let after = stats();
        assert!(after.bytes.arenas - after.bytes.untouched < before.bytes.arenas - before.bytes.untouched + (1 << 20));
    });
}

#[test]
fn at_the_limit_null_comes_and_below_it_memory() {
    alone("at_the_limit_null_comes_and_below_it_memory", || {
        // Never grows: what a failed growth prints would need memory, too.
        let mut found = Vec::with_capacity(1 << 15);
        pymalloc::set_limit(Some(8 << 20));
        for bytes in [1 << 20, 20 << 10, 600] {
            let layout = Layout::from_size_align(bytes, 8).expect("a layout");
            // SAFETY: the size is not 0; freed below with the same layout.
            while let Some(start) = std::ptr::NonNull::new(unsafe { alloc(layout) }) {
                found.push((start, layout));
            }
        }
        let all: usize = found.iter().map(|(_, layout)| layout.size()).sum();
        let full = stats();
        pymalloc::set_limit(None);
        assert!(all <= 8 << 20 && (full.pools_unused, full.arenas_mapped) == (0, 4), "{all} {full}");
        for (start, layout) in found {
            // SAFETY: allocated above.
            unsafe { dealloc(start.as_ptr(), layout) };
        }
        assert_eq!(vec![1_u8; 1 << 19].len(), 1 << 19);
        self_check().expect("sound");
    });
}

#[test]
fn a_forked_child_goes_on_with_medium_blocks() {
    alone("a_forked_child_goes_on_with_medium_blocks", || {
        let kept: Vec<Vec<u8>> = (0..30).map(|n| vec![n; 3000 * usize::from(n + 1)]).collect();
        // SAFETY: the child allocates, frees, checks and exits.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let more: Vec<Vec<u8>> = (0..30).map(|n| vec![n; 5000 * usize::from(n + 1)]).collect();
            drop(kept);
            let sound = self_check().is_ok() && more.iter().enumerate().all(|(n, bytes)| bytes[n * 5000] == n as u8);
            // SAFETY: no preconditions.
            unsafe { libc::_exit(i32::from(!sound)) };
        }
        let mut status = 0;
        // SAFETY: our child, and a place for its status.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "{status:#x}");
        assert!(kept.iter().enumerate().all(|(n, bytes)| bytes[n * 3000] == n as u8));
    });
}

/// A test whose child does the misuse of the body. `$message` is a part of the line it dies with.
macro_rules! misuses {
    ($($name:ident: $message:literal => $body:block)+) => { $(
        #[test]
        fn $name() {
            let printed = abort_of(stringify!($name), || $body);
            assert!(printed.starts_with("pymalloc: ") && printed.contains($message), "{printed:?}");
        }
    )+ };
}

const MEDIUM: Layout = Layout::new::<[u64; 900]>();
const RUN: Layout = Layout::new::<[u64; 10_000]>();

/// A block that may be misused: another one of its pool stays live.
fn victim(layout: Layout) -> *mut u8 {
    // SAFETY: the size is not 0.
    unsafe {
        black_box(alloc(layout));
        black_box(alloc_zeroed(layout))
    }
}

/// Frees what may not be freed.
fn free(start: *mut u8, layout: Layout) {
    // SAFETY: none: the misuse is the test.
    unsafe { dealloc(black_box(start), layout) };
}

misuses! {
    a_medium_block_freed_twice: "block is already free" => {
        let (block, other) = (victim(MEDIUM), victim(MEDIUM));
        free(block, MEDIUM);
        free(other, MEDIUM);
        free(block, MEDIUM);
        flush_thread_cache();
    }

    a_medium_block_freed_as_a_small_one: "of another size class" => {
        free(victim(MEDIUM), Layout::new::<[u64; 20]>());
        flush_thread_cache();
    }

    a_small_block_freed_as_a_medium_one: "of another size class" => {
        free(victim(Layout::new::<[u64; 20]>()), MEDIUM);
        flush_thread_cache();
    }

    the_middle_of_a_medium_block_freed: "not the start of a block" => {
        free(victim(MEDIUM).wrapping_add(64), MEDIUM);
        flush_thread_cache();
    }

    a_run_freed_twice: "in a pool that holds no blocks" => {
        let run = victim(RUN);
        free(run, RUN);
        free(run, RUN);
    }

    a_run_freed_with_another_length: "of another size class" => {
        free(victim(RUN), Layout::new::<[u64; 20_000]>());
    }

    a_run_resized_after_its_free: "in a pool that holds no blocks" => {
        let run = victim(RUN);
        free(run, RUN);
        // SAFETY: none: the misuse is the test.
        black_box(unsafe { realloc(run, RUN, 200_000) });
    }
}
