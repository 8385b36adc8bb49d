//! How the system's `malloc` treats large blocks while the small ones are elsewhere. These tests run without libtest,
//! one after the other: only the heap of the main thread is watched, and what they change in it stays.

use std::hint::black_box;
use std::mem::MaybeUninit;

use pymalloc::Pymalloc;

#[global_allocator]
static GLOBAL: Pymalloc = Pymalloc::new();

const LARGE_BYTES: usize = 12 << 10;
const PAGE_BYTES: usize = 4096;
/// What glibc may keep at the end of its heap, by `KEEPS_BYTES`, and by its own threshold of 128 KiB.
const MOST_BYTES: usize = (4 << 20) + (512 << 10);

fn page_faults() -> usize {
    let mut usage = MaybeUninit::<libc::rusage>::uninit();
    // SAFETY: the call fills the value in.
    let usage = unsafe {
        assert_eq!(libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()), 0);
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

fn waves_of_large_blocks_keep_their_memory() {
    const BLOCKS: usize = 60;
    const WAVES: usize = 50;
    let small: Vec<Box<[u64; 16]>> = (0..8192).map(|number| Box::new([number; 16])).collect();
    let before = page_faults();
    (0..WAVES).for_each(|_| wave(BLOCKS));
    let faults = page_faults() - before;
    let pages = WAVES * BLOCKS * LARGE_BYTES / PAGE_BYTES;
    assert!(faults < pages / 10, "{faults} page faults for {pages} pages written");
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

pub(crate) fn main() {
    let tests: [(&str, fn()); 3] = [
        ("the_memory_of_one_wave_of_large_blocks_goes_back", the_memory_of_one_wave_of_large_blocks_goes_back),
        ("waves_of_large_blocks_keep_their_memory", waves_of_large_blocks_keep_their_memory),
        ("larger_waves_keep_a_bounded_amount", larger_waves_keep_a_bounded_amount),
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
