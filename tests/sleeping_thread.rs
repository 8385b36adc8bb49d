//! Memory of a thread that sleeps is not stranded: others free it, and it goes back to the OS.
#![cfg(not(pymalloc_bypass))]

mod common;

use std::sync::mpsc::channel;
use std::thread;

use common::{arenas_after_purge, assert_sound, memory_bytes};
use pymalloc::{ARENA_BYTES, Pymalloc};

#[global_allocator]
static GLOBAL: Pymalloc = Pymalloc::new();

const BYTES_EACH: usize = 32 << 20;

type Small = [u64; 8];
type Bigger = [u64; 40];

#[test]
fn blocks_of_a_sleeping_thread_go_back_to_the_os() {
    let (to_main, from_sleeper) = channel();
    let (wake, sleep) = channel::<()>();
    let sleeper = thread::spawn(move || {
        let small: Vec<_> = (0..BYTES_EACH / size_of::<Small>())
            .map(|serial| Box::new([serial as u64; size_of::<Small>() / 8]))
            .collect();
        let bigger: Vec<_> = (0..BYTES_EACH / size_of::<Bigger>())
            .map(|serial| Box::new([serial as u64; size_of::<Bigger>() / 8]))
            .collect();
        to_main.send((small, bigger)).expect("main waits");
        // Until main hangs up: no call of the allocator that could collect anything.
        sleep.recv().expect_err("nothing is ever sent");
    });

    let (small, bigger) = from_sleeper.recv().expect("the sleeper sends");
    let peak_bytes = memory_bytes();
    assert!(peak_bytes >= 2 * BYTES_EACH);
    assert!(assert_sound().arenas_mapped >= 2 * BYTES_EACH / ARENA_BYTES);
    for (serial, block) in (0..).zip(small) {
        assert_eq!(*block, [serial; size_of::<Small>() / 8]);
    }
    for (serial, block) in (0..).zip(bigger) {
        assert_eq!(*block, [serial; size_of::<Bigger>() / 8]);
    }

    // The sleeper's own cache still holds a few blocks, hence not 0.
    let arenas = arenas_after_purge();
    assert!(arenas <= 8, "{arenas} arenas are still mapped");
    let left_bytes = memory_bytes();
    assert!(left_bytes < peak_bytes / 4, "{left_bytes} bytes of {peak_bytes} are still resident");

    assert!(!sleeper.is_finished(), "it slept all the time");
    drop(wake);
    sleeper.join().expect("it wakes up");
    assert_sound();
}
