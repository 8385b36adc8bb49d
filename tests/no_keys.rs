//! The process has no pthread key left: threads do without a cache, which nobody would take back when they end.
#![cfg(all(unix, not(pymalloc_bypass)))]

mod common;

use std::sync::Mutex;
use std::thread;

use common::{Block, Rng, assert_live_near, assert_sound};
use pymalloc::Pymalloc;

#[global_allocator]
static GLOBAL: Pymalloc = Pymalloc::new();

const SLACK_BLOCKS: usize = 32;
const KEYS_OF_STD: usize = 4;

static KEYS: Mutex<(usize, [libc::pthread_key_t; 2048])> = Mutex::new((0, [0; 2048]));

/// Before the allocator's first use, which would take a key.
extern "C" fn take_all_keys() {
    let mut keys = KEYS.lock().expect("nobody panicked");
    let (count, keys) = &mut *keys;
    // SAFETY: a place for a key.
    while *count < keys.len() && unsafe { libc::pthread_key_create(&raw mut keys[*count], None) } == 0 {
        *count += 1;
    }
    // The allocator asks once.
    drop(std::hint::black_box(Box::new(1)));
    // std can't do without the ones that it needs itself.
    for key in &keys[*count - KEYS_OF_STD..*count] {
        // SAFETY: created above.
        assert_eq!(unsafe { libc::pthread_key_delete(*key) }, 0);
    }
}

// SAFETY: the section holds pointers to functions of this type.
#[used]
#[unsafe(link_section = ".init_array.00098")]
static BEFORE_MAIN: extern "C" fn() = take_all_keys;

#[test]
fn without_keys_threads_allocate_and_free_without_a_cache() {
    let keys = KEYS.lock().expect("nobody panicked");
    assert!(keys.0 > 0 && keys.0 < keys.1.len(), "{} keys", keys.0);
    let before = assert_sound();
    assert_eq!(before.caches_live, 0, "nobody has a cache");
    for wave in 0..20 {
        let threads: Vec<_> = (0..4)
            .map(|number| {
                thread::spawn(move || {
                    let mut rng = Rng::new(wave * 4 + number);
                    (0..200).map(|serial| Block::random(serial, &mut rng)).collect::<Vec<_>>()
                })
            })
            .collect();
        for thread in threads {
            let mut theirs = thread.join().expect("its checks passed");
            theirs.iter().for_each(Block::check);
            theirs.truncate(100);
            thread::spawn(move || drop(theirs)).join().expect("its checks passed");
        }
    }
    let after = assert_sound();
    assert_eq!(after.caches_live, 0);
    assert_live_near(before.blocks_live(), SLACK_BLOCKS);
    // A whole program's worth of the rest: zeroed and moved blocks.
    let mut zeroed = vec![0_u8; 100];
    zeroed.resize(400, 1);
    assert_eq!(zeroed.iter().map(|&byte| usize::from(byte)).sum::<usize>(), 300);
}
