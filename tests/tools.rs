//! The flags `pymalloc_valgrind` and `pymalloc_asan`: the tool reports misuse of small blocks, and reports nothing in a
//! program without misuse.
//!
//! Memcheck runs this binary again. AddressSanitizer must be built into the binary: `tests/sanitizers.sh` does that,
//! and sets `PYMALLOC_ASAN`. Where the tool is missing, each test says so and passes.
#![cfg(any(pymalloc_valgrind, pymalloc_asan))]

use std::alloc::{GlobalAlloc, Layout};
use std::env;
use std::hint::black_box;
use std::process::{Command, Output};

use pymalloc::Pymalloc;

#[global_allocator]
static GLOBAL: Pymalloc = Pymalloc::new();

const PLANTED: &str = "PYMALLOC_PLANTED";
const LAYOUT: Layout = Layout::new::<[u8; 20]>();

/// A block with others on both sides.
fn victim() -> *mut u8 {
    let blocks: [*mut u8; 3] = std::array::from_fn(|_| {
        // SAFETY: the size is not 0.
        let block = black_box(unsafe { GLOBAL.alloc(LAYOUT) });
        // SAFETY: a block of the layout.
        unsafe { block.write_bytes(7, LAYOUT.size()) };
        block
    });
    blocks[1]
}

fn read(block: *const u8, offset: isize) {
    // SAFETY: the misuse is the test; the memory is mapped.
    let byte = unsafe { black_box(block).offset(offset).read_volatile() };
    // Memcheck reports the access at once, and the use of undefined bytes where they are used.
    black_box(byte);
}

fn free(block: *mut u8) {
    // SAFETY: a block of the layout.
    unsafe { GLOBAL.dealloc(black_box(block), LAYOUT) };
}

/// All kinds of correct use of the allocator.
fn no_misuse() {
    let text: Vec<String> = (0..3_000).map(|number| format!("{number:0>width$}", width = number % 700)).collect();
    assert!(text.iter().enumerate().all(|(number, text)| text.parse::<usize>().unwrap_or(0) == number));
    std::thread::spawn(move || drop(text)).join().expect("it does not panic");
    let mut grown = Vec::new();
    for number in 0..1_000_u32 {
        grown.push(number);
        if number % 100 == 0 {
            grown.shrink_to_fit();
        }
    }
    assert_eq!(grown.iter().sum::<u32>(), 499_500);
    assert!(vec![0_u8; 300].iter().all(|&byte| byte == 0));
    pymalloc::purge();
    let maps: Vec<std::collections::BTreeMap<usize, Box<[u8; 40]>>> =
        (0..50).map(|size| (0..size).map(|key| (key, Box::new([1; 40]))).collect()).collect();
    drop(maps);
    pymalloc::purge();
    // Parts of many pools go back to the OS.
    let mut scattered: Vec<Box<[u8; 200]>> = (0..10_000).map(|_| Box::new([1; 200])).collect();
    let mut index = 0..;
    scattered.retain(|_| index.next().is_some_and(|index: usize| index.is_multiple_of(100)));
    pymalloc::purge();
    assert!(scattered.iter().all(|block| **block == [1; 200]));
}

/// The tools' words for an access to closed bytes: AddressSanitizer's, memcheck's.
const CLOSED: [&str; 2] = ["use-after-poison", "Invalid read of size 1"];

/// A name, the action, and whether a tool must report it.
type Bug = (&'static str, fn(), bool);

const BUGS: &[Bug] = &[
    (
        "a_read_after_the_free",
        || {
            let block = victim();
            free(block);
            read(block, 3);
        },
        true,
    ),
    ("a_read_beyond_the_end", || read(victim(), 20), true),
    ("a_read_before_the_start", || read(victim(), -1), true),
    (
        "a_read_beyond_a_block_that_was_made_shorter",
        || {
            // SAFETY: a block of the layout.
            let block = unsafe { GLOBAL.realloc(victim(), LAYOUT, 18) };
            read(block, 18);
        },
        true,
    ),
    ("no_misuse", no_misuse, false),
];

/// Runs the binary under the tool, with `bug`; `None` if there is no tool.
fn on_tool(bug: &str) -> Option<Output> {
    let own = env::current_exe().expect("an executable");
    let mut command = if cfg!(pymalloc_valgrind) {
        if Command::new("valgrind").arg("--version").output().is_err() {
            eprintln!("skipped: no valgrind");
            return None;
        }
        let mut command = Command::new("valgrind");
        command.args(["--error-exitcode=99", "--leak-check=no", "--quiet"]).arg(own);
        command
    } else {
        if env::var_os("PYMALLOC_ASAN").is_none() {
            eprintln!("skipped: built without AddressSanitizer; tests/sanitizers.sh builds with it");
            return None;
        }
        let mut command = Command::new(own);
        command.env("ASAN_OPTIONS", "detect_leaks=0");
        command
    };
    command.args(["--exact", "the_tool_sees_each_planted_bug", "--nocapture", "--test-threads=1"]);
    Some(command.env(PLANTED, bug).output().expect("it starts"))
}

#[test]
fn the_tool_sees_each_planted_bug() {
    if let Ok(name) = env::var(PLANTED) {
        let (_, bug, _) = BUGS.iter().find(|(known, ..)| *known == name).expect("a bug");
        return bug();
    }
    for &(name, _, is_reported) in BUGS {
        let Some(output) = on_tool(name) else { return };
        let printed = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.success(), !is_reported, "{name}: {printed}");
        assert_eq!(CLOSED.iter().any(|said| printed.contains(said)), is_reported, "{name}: {printed}");
        assert!(!printed.contains("unhandled"), "{name}: {printed}");
    }
}
