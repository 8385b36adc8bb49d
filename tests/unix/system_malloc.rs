//! How the system's `malloc` treats large blocks while the small ones are elsewhere. These tests run without libtest,
//! one after the other: what they change in the main thread's heap stays.

use std::hint::black_box;
use std::mem::MaybeUninit;
use std::sync::Barrier;

use pymalloc::Pymalloc;

#[global_allocator]
static GLOBAL: Pymalloc = Pymalloc::new();

const LARGE_BYTES: usize = 12 << 10;
const PAGE_BYTES: usize = 4096;
/// glibc keeps at most this much at the end of a heap: `KEEPS_BYTES`, its own threshold of 128 KiB, and some room.
const MOST_BYTES: usize = (4 << 20) + (512 << 10);

fn page_faults(whose: libc::c_int) -> usize {
    let mut usage = MaybeUninit::<libc::rusage>::uninit();
    // SAFETY: the call fills the value in.
    let usage = unsafe {
        assert_eq!(libc::getrusage(whose, usage.as_mut_ptr()), 0);
        usage.assume_init()
    };
    usage.ru_minflt as usize
}

/// The end of glibc's first heap.
#[cfg(target_os = "linux")]
fn heap_end() -> usize {
    // SAFETY: it moves nothing.
    unsafe { libc::sbrk(0) }.addr()
}

#[cfg(not(target_os = "linux"))]
fn heap_end() -> usize {
    0
}

/// Allocates blocks, writes to all of their pages, and frees them.
fn wave(blocks: usize) {
    let blocks: Vec<Vec<u8>> = (0..blocks).map(|number| black_box(vec![number as u8 | 1; LARGE_BYTES])).collect();
    drop(black_box(blocks));
}

fn the_memory_of_one_wave_of_large_blocks_goes_back() {
    let before = heap_end();
    wave(2_000);
    let kept = heap_end().saturating_sub(before);
    assert!(kept < 256 << 10, "{kept} bytes");
}

/// Checks that waves of large blocks have few page faults, those of the process or of the calling thread.
fn assert_waves_keep_their_memory(whose: libc::c_int, waves: usize) {
    const BLOCKS: usize = 60;
    let before = page_faults(whose);
    (0..waves).for_each(|_| wave(BLOCKS));
    let faults = page_faults(whose) - before;
    let pages = waves * BLOCKS * LARGE_BYTES / PAGE_BYTES;
    assert!(faults < pages / 10, "{faults} page faults for {pages} pages written");
}

fn waves_of_large_blocks_keep_their_memory() {
    let small: Vec<Box<[u64; 16]>> = (0..8192).map(|number| Box::new([number; 16])).collect();
    assert_waves_keep_their_memory(libc::RUSAGE_SELF, 50);
    drop(black_box(small));
}

fn larger_waves_keep_a_bounded_amount() {
    let before = heap_end();
    for _ in 0..20 {
        wave(2_000);
        let kept = heap_end().saturating_sub(before);
        assert!(kept < MOST_BYTES, "{kept} bytes");
    }
}

/// Resident bytes that belong to no file.
fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("a line");
    line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") << 10
}

fn threads_waves_keep_their_memory_until_the_threads_end() {
    const THREADS: usize = 4;
    let before = resident_bytes();
    let barrier = Barrier::new(THREADS + 1);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let small: Vec<Box<[u64; 16]>> = (0..2048).map(|number| Box::new([number; 16])).collect();
                assert_waves_keep_their_memory(libc::RUSAGE_THREAD, 50);
                drop(black_box(small));
                (0..5).for_each(|_| wave(2_000));
                barrier.wait();
                barrier.wait();
            });
        }
        barrier.wait();
        let kept = resident_bytes().saturating_sub(before);
        assert!(kept < THREADS * MOST_BYTES, "{kept} bytes while the threads wait");
        barrier.wait();
    });
    let kept = resident_bytes().saturating_sub(before);
    // The allocator's own memory of four threads, and glibc's threshold for the heap of each.
    assert!(kept < THREADS * (1 << 20), "{kept} bytes when the threads have ended");
}

/// A pin must not keep large blocks below it that are freed later.
fn much_memory_below_the_waves_is_not_kept() {
    fn hold(blocks: usize) -> Vec<Vec<u8>> {
        (0..blocks).map(|number| black_box(vec![number as u8 | 1; 8 * LARGE_BYTES])).collect()
    }
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let before = resident_bytes();
            for blocks in [20, 100, 1000] {
                let held = hold(blocks);
                (0..60).for_each(|_| wave(60));
                drop(held);
                let kept = resident_bytes().saturating_sub(before);
                assert!(kept < 2 * MOST_BYTES, "{kept} bytes of {blocks} blocks");
            }
        });
    });
}

/// The hole is lower than the place to which the heap's end sinks.
fn a_hole_does_not_hide_the_end_of_the_heap() {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let hole = black_box(vec![1_u8; 100 << 10]);
            let second = black_box(vec![1_u8; 40 << 10]);
            let above: Vec<Vec<u8>> = (0..20).map(|_| black_box(vec![1_u8; 100 << 10])).collect();
            drop((hole, second));
            assert_waves_keep_their_memory(libc::RUSAGE_THREAD, 100);
            drop(black_box(above));
        });
    });
}

fn a_heap_that_only_grows_is_given_back_whole() {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let before = resident_bytes();
            (0..3).for_each(|_| wave(5_000));
            let kept = resident_bytes().saturating_sub(before);
            assert!(kept < MOST_BYTES, "{kept} bytes");
        });
    });
}

pub(crate) fn main() {
    let tests: [(&str, fn()); 7] = [
        ("the_memory_of_one_wave_of_large_blocks_goes_back", the_memory_of_one_wave_of_large_blocks_goes_back),
        ("waves_of_large_blocks_keep_their_memory", waves_of_large_blocks_keep_their_memory),
        ("larger_waves_keep_a_bounded_amount", larger_waves_keep_a_bounded_amount),
        (
            "threads_waves_keep_their_memory_until_the_threads_end",
            threads_waves_keep_their_memory_until_the_threads_end,
        ),
        ("much_memory_below_the_waves_is_not_kept", much_memory_below_the_waves_is_not_kept),
        ("a_hole_does_not_hide_the_end_of_the_heap", a_hole_does_not_hide_the_end_of_the_heap),
        ("a_heap_that_only_grows_is_given_back_whole", a_heap_that_only_grows_is_given_back_whole),
    ];
    for (name, test) in tests {
        if std::env::args().any(|argument| argument == "--list") {
            println!("{name}: test");
        } else if cfg!(any(not(all(target_os = "linux", target_env = "gnu")), pymalloc_bypass)) {
            println!("test {name} ... ignored, only glibc's malloc is watched");
        } else {
            test();
            println!("test {name} ... ok");
        }
    }
}
