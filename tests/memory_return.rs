//! After a peak, memory goes back, and the next peak needs no more than the last.
#![cfg(not(pymalloc_bypass))]

mod common;

use std::thread;

#[cfg(target_os = "linux")]
use common::sandbox::refuse_system_call;
use common::{Block, Rng, alone, arenas_after_purge, arenas_at_floor, assert_live_near, assert_sound};
#[cfg(any(target_os = "linux", windows))]
use common::{memory_bytes, os_page_bytes};
use pymalloc::{ARENA_BYTES, Pymalloc, stats};

#[global_allocator]
static GLOBAL: Pymalloc = Pymalloc::new();

const ROUNDS: usize = 5;
const PEAK_BLOCKS: u64 = 200_000;
const SLACK_BLOCKS: usize = 32;

/// The same live set in each round.
fn grow() -> Vec<Block> {
    let mut rng = Rng::new(0x9EA4);
    let mut blocks: Vec<Block> = (0..PEAK_BLOCKS).map(|serial| Block::random(serial, &mut rng)).collect();
    rng.shuffle(&mut blocks);
    blocks
}

/// Runs rounds of `drop_all`, which gets the live set at its peak, and checks that each ends with
/// the arenas it began with, and that no round peaks higher than the first.
fn rounds(drop_all: impl Fn(Vec<Block>, usize)) {
    let floor = arenas_at_floor();
    let before = stats().blocks_live();
    let mut first_peak = None;
    for round in 0..ROUNDS {
        let blocks = grow();
        let peak = assert_sound().arenas_mapped;
        assert!(peak >= (40 << 20) / ARENA_BYTES, "{peak} arenas do not hold the live set");
        assert!(stats().arenas_peak >= peak);
        let first_peak = *first_peak.get_or_insert(peak);
        assert!(peak.abs_diff(first_peak) <= 1, "peaks of {first_peak} arenas, then of {peak}");
        drop_all(blocks, before);
        let arenas = arenas_after_purge();
        assert!(arenas <= floor, "{arenas} arenas after round {round}, {floor} before the first");
        assert_live_near(before, SLACK_BLOCKS);
    }
    let stats = stats();
    assert!(stats.arenas_returned >= ROUNDS * (first_peak.expect("rounds ran") - floor - 1));
    assert_eq!(stats.arenas_ever - stats.arenas_returned, stats.arenas_mapped);
}

#[test]
fn a_peak_leaves_nothing_behind() {
    alone("a_peak_leaves_nothing_behind", || {
        rounds(|blocks, _| drop(blocks));
    });
}

/// Keeps a hundredth, uses the free space between, and frees the rest.
fn drop_by_way_of_scattered_survivors(mut blocks: Vec<Block>, before: usize) {
    // Shuffled, so what is left of them is everywhere.
    blocks.truncate(blocks.len() / 100);
    pymalloc::flush_thread_cache();
    pymalloc::purge();
    let small = blocks.iter().filter(|block| block.is_small()).count();
    assert_live_near(before + small, SLACK_BLOCKS);

    let arenas = stats().arenas_mapped;
    let mut rng = Rng::new(1);
    let more: Vec<Block> = (0..PEAK_BLOCKS / 4).map(|serial| Block::random(serial, &mut rng)).collect();
    let arenas_now = stats().arenas_mapped;
    assert!(arenas_now <= arenas + 2, "{arenas} arenas, then {arenas_now}");
    drop(more);
    drop(blocks);
}

#[test]
fn scattered_survivors_leave_nothing_behind_in_the_end() {
    alone("scattered_survivors_leave_nothing_behind_in_the_end", || {
        rounds(drop_by_way_of_scattered_survivors);
    });
}

#[test]
fn a_peak_that_others_free_leaves_nothing_behind() {
    alone("a_peak_that_others_free_leaves_nothing_behind", || {
        rounds(|mut blocks, _| {
            let theirs = blocks.split_off(blocks.len() / 2);
            let other = thread::spawn(move || {
                drop(theirs);
                pymalloc::flush_thread_cache();
            });
            drop(blocks);
            other.join().expect("its checks passed");
        });
    });
}

#[test]
fn the_peak_does_not_creep() {
    alone("the_peak_does_not_creep", || {
        let peaks = [(); ROUNDS].map(|()| {
            drop(grow());
            arenas_after_purge();
            stats().arenas_peak
        });
        assert_ne!(peaks[0], 0);
        assert!(peaks[ROUNDS - 1] <= peaks[0] + 1, "{peaks:?}");
    });
}

/// Frees all but a hundredth of a peak, less where OS pages are larger, and returns by what share that made the RSS
/// smaller, or the commit charge.
#[cfg(any(target_os = "linux", windows))]
fn share_given_back() -> f64 {
    let mut blocks: Vec<Box<[u8; 256]>> = (0..400_000).map(|_| Box::new([1; 256])).collect();
    let peak_bytes = memory_bytes();
    let every = 100 * (os_page_bytes() / 4096);
    let mut index = 0;
    blocks.retain(|_| {
        index += 1;
        index % every == 0
    });
    let left_bytes = memory_bytes();
    assert!(blocks.iter().all(|block| **block == [1; 256]));
    assert_sound();
    1.0 - left_bytes as f64 / peak_bytes as f64
}

#[test]
#[cfg(target_os = "linux")]
fn memory_goes_back_with_and_without_the_call_for_many_ranges() {
    alone("memory_goes_back_with_and_without_the_call_for_many_ranges", || {
        // Linux before 6.14 has no such call, or not for this; then both are without it.
        let with = share_given_back();
        refuse_system_call(libc::SYS_process_madvise, libc::EPERM);
        let without = share_given_back();
        assert!(with > 0.4 && without > 0.4, "{with:.2} and {without:.2} went back");
    });
}

#[test]
#[cfg(windows)]
fn the_commit_charge_goes_back_although_survivors_are_everywhere() {
    alone("the_commit_charge_goes_back_although_survivors_are_everywhere", || {
        let share = share_given_back();
        assert!(share > 0.4, "{share:.2} went back");
    });
}
