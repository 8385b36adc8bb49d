//! Graphs and timelines without memory: at the limit, with the heap full to the last block.
#![cfg(all(feature = "graph", target_os = "linux"))]

mod common;
mod planted;

use std::alloc::{Layout, alloc, dealloc};
use std::ptr::null_mut;

use common::{abort_of, alone};
use planted::traced;
use pymalloc::Pymalloc;
use pymalloc::graph::{self, Config};
use pymalloc::trace::{self, Filter, Recording, Session, Timeline, TimelineConfig};

#[global_allocator]
static GLOBAL: Pymalloc = Pymalloc::new();

/// Allocates blocks of all classes until there is no memory, and links each to the one before.
struct Full {
    newest: *mut u8,
    blocks: usize,
}

const SIZES: [usize; 7] = [512, 256, 128, 64, 32, 24, 16];

impl Full {
    #[inline(never)]
    fn fill() -> Self {
        let mut full = Self { newest: null_mut(), blocks: 0 };
        pymalloc::set_limit(Some(pymalloc::stats().arenas_mapped * pymalloc::ARENA_BYTES));
        for bytes in SIZES.iter().copied().chain((8..=512).rev().step_by(8)).filter(|&bytes| bytes >= 16) {
            // SAFETY: not 0; the block is written within its bytes.
            unsafe {
                loop {
                    let block = alloc(Self::layout(bytes));
                    if block.is_null() {
                        break;
                    }
                    block.cast::<(*mut u8, usize)>().write((full.newest, bytes));
                    full.newest = block;
                    full.blocks += 1;
                }
            }
        }
        full
    }

    fn layout(bytes: usize) -> Layout {
        Layout::from_size_align(bytes, 8).expect("valid")
    }

    /// Frees them; returns how many there were.
    fn empty(self) -> usize {
        let (mut next, mut found) = (self.newest, 0);
        while !next.is_null() {
            // SAFETY: written by `fill`, and freed once.
            unsafe {
                let (before, bytes) = next.cast::<(*mut u8, usize)>().read();
                dealloc(next, Self::layout(bytes));
                next = before;
            }
            found += 1;
        }
        found
    }
}

/// What looks names up allocates as all Rust code does: the program ends as it does where a `Box` finds no memory.
#[test]
fn with_the_heap_full_a_graph_ends_the_program_by_an_abort_that_says_why() {
    let said = abort_of("with_the_heap_full_a_graph_ends_the_program_by_an_abort_that_says_why", || {
        let _session = Session::start(trace::Config::new()).expect("the tracer is off");
        let _full = Full::fill();
        let _ = graph::take(Config::new());
    });
    assert!(said.starts_with("memory allocation of "), "{said}");
}

/// The tracer's own tables are mapped apart from the heap, and the limit does not concern them.
#[test]
fn a_timeline_under_a_limit_loses_nothing() {
    alone("a_timeline_under_a_limit_loses_nothing", || {
        let file = std::env::temp_dir().join(format!("pymalloc-limits-{}", std::process::id()));
        let config = TimelineConfig::new().interval(std::time::Duration::from_millis(5));
        let timeline = Timeline::start(&file, config).expect("no other");
        let full = Full::fill();
        let blocks = full.blocks;
        assert!(blocks > 1000);
        // The sampler goes on meanwhile.
        std::thread::sleep(std::time::Duration::from_millis(60));
        pymalloc::set_limit(None);
        timeline.stop().expect("no fault");
        let recording = Recording::load(&file).expect("a recording");
        let own = Filter::include().function("*Full::fill*").expect("a pattern").all_frames();
        let last = recording.moments().len() - 1;
        let found: usize = recording.live_at(last).filter(&[own]).traces().map(|trace| trace.blocks).sum();
        assert_eq!(found, blocks);
        assert_eq!(full.empty(), blocks);
        std::fs::remove_file(&file).expect("ours");
    });
}

#[test]
fn once_there_is_memory_again_so_is_a_graph() {
    traced("once_there_is_memory_again_so_is_a_graph", || {
        let full = Full::fill();
        let blocks = full.blocks;
        pymalloc::set_limit(None);
        let graph = graph::take(Config::new()).expect("a graph");
        let newest = graph.block_of(full.newest).expect("a block");
        assert!(newest.retained_bytes >= 16 * blocks as u64, "{newest}");
        assert_eq!(full.empty(), blocks);
    });
}
