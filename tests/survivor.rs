//! Free blocks in the partly used pools of ended threads serve the threads that live on.
#![cfg(not(pymalloc_bypass))]

mod common;

use std::sync::{Arc, Barrier};
use std::thread;

use common::{Rng, assert_sound, memory_bytes};
use pymalloc::{ARENA_BYTES, Pymalloc};

#[global_allocator]
static GLOBAL: Pymalloc = Pymalloc::new();

const THREADS: u64 = 63;
const BLOCKS_PER_THREAD: u64 = 20_000;

type Block = Box<[u64; 8]>;

fn block(serial: u64) -> Block {
    Box::new([serial; 8])
}

fn check(blocks: &[Block]) {
    for block in blocks {
        assert_eq!(**block, [block[0]; 8]);
    }
}

/// Allocates and frees a random half. The others are waited for, so that no thread takes over what
/// another has left.
fn leave_a_random_half(number: u64, all_have_allocated: &Barrier) -> Vec<Block> {
    let first = number * BLOCKS_PER_THREAD;
    let mut blocks: Vec<Block> = (first..first + BLOCKS_PER_THREAD).map(block).collect();
    all_have_allocated.wait();
    Rng::new(number).shuffle(&mut blocks);
    blocks.truncate(blocks.len() / 2);
    blocks
}

#[test]
fn the_living_use_what_ended_threads_have_freed() {
    let barrier = Arc::new(Barrier::new(THREADS as usize));
    let threads: Vec<_> = (0..THREADS)
        .map(|number| {
            let barrier = Arc::clone(&barrier);
            thread::spawn(move || leave_a_random_half(number, &barrier))
        })
        .collect();
    let survivors: Vec<Vec<Block>> =
        threads.into_iter().map(|thread| thread.join().expect("it does not panic")).collect();

    let freed = THREADS * BLOCKS_PER_THREAD / 2;
    // Written now, so that the list itself is resident already.
    let mut replaced: Vec<Option<Block>> = (0..freed).map(|_| None).collect();
    let (arenas, resident_bytes) = (assert_sound().arenas_mapped, memory_bytes());
    assert!(arenas >= freed as usize * 2 * size_of::<[u64; 8]>() / ARENA_BYTES);
    for (serial, place) in (0..).zip(&mut replaced) {
        *place = Some(block(serial));
    }

    let (arenas_now, resident_bytes_now) = (assert_sound().arenas_mapped, memory_bytes());
    assert!(arenas_now <= arenas + arenas / 10, "{arenas} arenas, then {arenas_now}");
    assert!(
        resident_bytes_now <= resident_bytes + resident_bytes / 10,
        "{resident_bytes} resident bytes, then {resident_bytes_now}"
    );
    survivors.iter().for_each(|survivors| check(survivors));
    for (serial, place) in (0..).zip(&replaced) {
        assert_eq!(place.as_deref(), Some(&[serial; 8]));
    }
}
