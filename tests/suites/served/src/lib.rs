//! Makes `Pymalloc` the global allocator of a test binary that links this crate.
//!
//! At exit the heap checks itself, and one line is appended to the file that `SERVED_LOG` names: the binary, the small
//! and the large requests, the small blocks that were not freed, those that the heap counts as live, the arenas ever
//! mapped, and the result of the self-check.
#![cfg(feature = "pymalloc")]

use std::alloc::{GlobalAlloc, Layout};
use std::fs::OpenOptions;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use pymalloc::Pymalloc;

struct Counted;

static PYMALLOC: Pymalloc = Pymalloc::new();
// Relaxed, all of them: counts that order nothing.
static SMALL: AtomicU64 = AtomicU64::new(0);
static LARGE: AtomicU64 = AtomicU64::new(0);
static SMALL_FREED: AtomicU64 = AtomicU64::new(0);

#[global_allocator]
static GLOBAL: Counted = Counted;

fn count(layout: Layout) {
    let counter = if pymalloc::class_bytes(layout).is_some() { &SMALL } else { &LARGE };
    counter.fetch_add(1, Ordering::Relaxed);
}

fn count_free(layout: Layout) {
    if pymalloc::class_bytes(layout).is_some() {
        SMALL_FREED.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: every call is forwarded to `Pymalloc` unchanged.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout);
        // SAFETY: the caller's promises.
        unsafe { PYMALLOC.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout);
        // SAFETY: the caller's promises.
        unsafe { PYMALLOC.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        count_free(layout);
        // SAFETY: the caller's promises.
        unsafe { PYMALLOC.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        // SAFETY: the caller's promises.
        let moved = unsafe { PYMALLOC.realloc(block, layout, bytes) };
        if !moved.is_null() {
            count_free(layout);
            // SAFETY: the caller promises that the size fits the alignment.
            count(unsafe { Layout::from_size_align_unchecked(bytes, layout.align()) });
        }
        moved
    }
}

extern "C" fn at_exit() {
    let Some(log) = std::env::var_os("SERVED_LOG") else { return };
    let binary = std::env::current_exe().unwrap_or_default();
    // This comes before anything else is allocated or freed here.
    let (small, freed) = (SMALL.load(Ordering::Relaxed), SMALL_FREED.load(Ordering::Relaxed));
    let large = LARGE.load(Ordering::Relaxed);
    let (live, arenas, verdict) = match pymalloc::self_check() {
        Ok(stats) => (stats.blocks_live(), stats.arenas_ever, "sound"),
        Err(corruption) => (0, 0, corruption.message),
    };
    let line = format!("{}\t{small}\t{large}\t{}\t{live}\t{arenas}\t{verdict}\n", binary.display(), small - freed);
    let log = OpenOptions::new().append(true).create(true).open(log);
    let written = log.and_then(|mut to| to.write_all(line.as_bytes()));
    if let Err(error) = written {
        eprintln!("served: {error}");
    }
}

extern "C" fn at_start() {
    // SAFETY: the function lives as long as the program.
    unsafe { libc::atexit(at_exit) };
}

// The loader calls this before `main`.
// SAFETY: the section holds pointers to functions of this type.
#[used]
#[unsafe(link_section = ".init_array")]
static AT_START: extern "C" fn() = at_start;
