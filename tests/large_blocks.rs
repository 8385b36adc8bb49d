//! glibc serves large blocks: beside small blocks in arenas, about as much of their memory stays as with glibc alone.

#![cfg(all(target_os = "linux", target_env = "gnu", not(pymalloc_bypass), not(feature = "__raw")))]

use std::sync::mpsc::channel;
use std::thread;

#[global_allocator]
static GLOBAL: pymalloc::Pymalloc = pymalloc::Pymalloc::new();

const KIB: usize = 1 << 10;
/// Bytes that the crate lets glibc keep beyond its default, and bytes that glibc keeps in each thread's heap.
const KEPT_BYTES: usize = 4096 * KIB;
const KEPT_BYTES_EACH: usize = 256 * KIB;
/// For stacks, page tables, and the reading of the figure.
const MARGIN_BYTES: usize = 1024 * KIB;

/// Bytes of anonymous memory that are resident.
fn resident_bytes() -> usize {
    let text = std::fs::read_to_string("/proc/self/status").expect("Linux shows every process its status");
    let field = text.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("a field of that file");
    field.split_whitespace().next().and_then(|kib| kib.parse::<usize>().ok()).expect("a number") * KIB
}

fn burst() -> Vec<Vec<u8>> {
    (0..1_500).map(|_| vec![1; 20_000]).collect()
}

/// All in one test: another test at the same time would change the figures.
#[test]
fn large_blocks_go_back() {
    let index: Vec<Box<[u8; 64]>> = (0..256 * KIB).map(|_| Box::new([1; 64])).collect();
    let before = resident_bytes();
    let workers: Vec<_> = (0..8)
        .map(|_| {
            let (sender, receiver) = channel();
            let worker = thread::spawn(move || {
                drop(burst());
                sender.send(()).expect("somebody waits");
                thread::park();
            });
            receiver.recv().expect("the worker comes to its end");
            worker
        })
        .collect();
    let more = resident_bytes().saturating_sub(before);
    assert!(more < KEPT_BYTES + 8 * KEPT_BYTES_EACH + MARGIN_BYTES, "{} KiB more", more / KIB);

    // Free blocks below a block in use: only `malloc_trim`, which `purge` calls, gives them back.
    let blocks = burst();
    // Without the black box, the compiler would leave the block out.
    // SAFETY: freed below.
    let on_top = std::hint::black_box(unsafe { libc::malloc(20_000) });
    drop(blocks);
    assert!(resident_bytes() > before + 20_000 * KIB, "the block on top holds what is below");
    pymalloc::purge();
    let more = resident_bytes().saturating_sub(before);
    assert!(more < KEPT_BYTES + 8 * KEPT_BYTES_EACH + MARGIN_BYTES, "{} KiB more after purge", more / KIB);
    // SAFETY: allocated above.
    unsafe { libc::free(on_top) };
    for worker in workers {
        worker.thread().unpark();
        worker.join().expect("no worker panics");
    }
    drop(index);
}
