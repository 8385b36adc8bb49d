//! What the system's `malloc` does with large blocks, when the small ones are elsewhere. Without libtest, because what
//! it keeps is in the heap of the thread that was first to use some pools: libtest's, whose tests are in others.

use std::hint::black_box;
use std::mem::MaybeUninit;

use pymalloc::Pymalloc;

#[global_allocator]
static GLOBAL: Pymalloc = Pymalloc::new();

const NAME: &str = "large_blocks_that_come_and_go_keep_their_memory_once_the_program_has_some_size";
const LARGE_BYTES: usize = 12 << 10;
const LARGE_BLOCKS: usize = 60;
const ROUNDS: usize = 50;
const PAGE_BYTES: usize = 4096;

fn page_faults() -> usize {
    let mut usage = MaybeUninit::<libc::rusage>::uninit();
    // SAFETY: the call fills the value in.
    let usage = unsafe {
        assert_eq!(libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()), 0);
        usage.assume_init()
    };
    usage.ru_minflt as usize
}

/// Allocates blocks, writes to all of their pages, and frees them.
fn round() {
    let blocks: Vec<Vec<u8>> = (0..LARGE_BLOCKS).map(|number| black_box(vec![number as u8 | 1; LARGE_BYTES])).collect();
    drop(black_box(blocks));
}

fn large_blocks_that_come_and_go_keep_their_memory_once_the_program_has_some_size() {
    // Small blocks of 1 MiB: from then on glibc is let keep what the large ones leave.
    let small: Vec<Box<[u64; 16]>> = (0..8192).map(|number| Box::new([number; 16])).collect();
    round();
    let before = page_faults();
    (0..ROUNDS).for_each(|_| round());
    let faults = page_faults() - before;
    let pages = ROUNDS * LARGE_BLOCKS * LARGE_BYTES / PAGE_BYTES;
    assert!(faults < pages / 10, "{faults} page faults for {pages} pages written");
    drop(black_box(small));
}

pub(crate) fn main() {
    if std::env::args().any(|argument| argument == "--list") {
        println!("{NAME}: test");
        return;
    }
    if cfg!(any(not(all(target_os = "linux", target_env = "gnu")), pymalloc_bypass)) {
        println!("test {NAME} ... ignored, only glibc's malloc is let keep memory");
        return;
    }
    large_blocks_that_come_and_go_keep_their_memory_once_the_program_has_some_size();
    println!("test {NAME} ... ok");
}
