//! Bytes of RSS per byte asked for, in a full heap of blocks of one size.
//!
//! `cargo bench -p pymalloc-benches --bench density [BYTES…]`: each size runs in a process of its own. It allocates
//! blocks and writes to them until a further arena is mapped, and reads its RSS just before that. The blocks are linked
//! through their own bytes, so there is nothing else. The RSS before the first block is subtracted. Sizes are rounded
//! up to 8.

use std::alloc::{Layout, alloc};
use std::process::{Command, ExitCode};
use std::ptr;

use pymalloc::{Pymalloc, stats};

#[global_allocator]
static GLOBAL: Pymalloc = Pymalloc::new();

const SIZES: [usize; 10] = [8, 16, 24, 32, 40, 72, 136, 264, 400, 512];
/// Arenas of the heap when its RSS is read.
const ARENAS: usize = 64;
/// Bytes between two looks: a pool.
const LOOK_BYTES: usize = 32 << 10;

/// This process's RSS in bytes.
fn rss_bytes() -> usize {
    // "size resident …" in OS pages.
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let os_pages: usize = statm.split(' ').nth(1).expect("a second field").parse().expect("a number");
    // SAFETY: a question without arguments that could be wrong.
    os_pages * usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).expect("positive")
}

/// Fills the heap; returns the bytes asked for and the RSS that they took.
fn fill(bytes: usize) -> (usize, usize) {
    let layout = Layout::from_size_align(bytes, 8).expect("a small size");
    // A reading before the first one that counts, so that its code and buffers are resident.
    let _ = (rss_bytes(), stats());
    let before = rss_bytes();
    let (mut asked, mut newest, mut full) = (0, ptr::null_mut::<u8>(), (0, 0));
    loop {
        let arenas = stats().arenas_mapped;
        if arenas > ARENAS {
            return full;
        }
        if arenas == ARENAS {
            full = (asked, rss_bytes() - before);
        }
        for _ in 0..LOOK_BYTES / bytes {
            // SAFETY: the size is not 0.
            let block = unsafe { alloc(layout) };
            assert!(!block.is_null(), "out of memory");
            // SAFETY: 8 bytes at least, aligned to 8.
            unsafe {
                block.write_bytes(1, bytes);
                block.cast::<*mut u8>().write(newest);
            }
            newest = block;
        }
        asked += LOOK_BYTES / bytes * bytes;
    }
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    if let [word, bytes] = words.as_slice()
        && word == "fill"
    {
        let (asked, taken) = fill(bytes.parse().expect("given by the parent"));
        println!("{asked} {taken}");
        return ExitCode::SUCCESS;
    }
    let sizes: Result<Vec<usize>, _> = words.iter().map(|word| word.parse()).collect();
    let sizes = match sizes {
        Ok(sizes) if sizes.iter().all(|bytes| (8..=512).contains(bytes)) => sizes,
        _ => {
            eprintln!("density: sizes are numbers of bytes from 8 to 512");
            return ExitCode::from(2);
        }
    };
    println!("bytes   MiB asked for   MiB of RSS   RSS a byte");
    for bytes in if sizes.is_empty() { SIZES.to_vec() } else { sizes } {
        let bytes = bytes.next_multiple_of(8);
        let child = Command::new(std::env::current_exe().expect("this program"))
            .args(["fill", &bytes.to_string()])
            .output()
            .expect("this program starts");
        assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stderr));
        let line = String::from_utf8(child.stdout).expect("numbers");
        let numbers: Vec<f64> = line.split_whitespace().map(|word| word.parse().expect("a number")).collect();
        let [asked, taken] = numbers[..] else { panic!("two numbers, not {line:?}") };
        println!("{bytes:5}   {:13.2}   {:10.2}   {:10.4}", asked / 1048576.0, taken / 1048576.0, taken / asked);
    }
    ExitCode::SUCCESS
}
