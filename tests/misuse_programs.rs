//! The patterns of hardened_malloc's and mimalloc-bench's security programs, written anew for this crate: each runs in
//! a process of its own, on the plain allocator and on the debug hooks, and what became of it must be what the table in
//! `docs/misuse.md` says; with the feature `hardened`, what its column says.
//!
//! The program's own allocations go to the system, so that the heap holds a pattern's blocks only.
#![cfg(not(pymalloc_bypass))]

mod common;
#[cfg_attr(unix, path = "unix/misuse.rs")]
#[cfg_attr(windows, path = "windows/misuse.rs")]
mod system;

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::hint::black_box;
use std::process::{Command, Output};
use std::ptr::{null_mut, without_provenance_mut};
use std::{env, thread};

use pymalloc::Pymalloc;
use pymalloc::debug::DebugAlloc;

static PLAIN: Pymalloc = Pymalloc::new();
static DEBUG: DebugAlloc<Pymalloc> = DebugAlloc::new(Pymalloc::new());

const PATTERN: &str = "PYMALLOC_PATTERN";
const ALLOCATOR: &str = "PYMALLOC_PATTERN_ALLOCATOR";
/// The child's exit code when the pattern found that its aim is out of reach.
const PREVENTED: i32 = 10;

/// The allocator under test.
#[derive(Clone, Copy)]
struct Heap(&'static (dyn GlobalAlloc + Sync));

impl Heap {
    fn alloc(self, layout: Layout) -> *mut u8 {
        // SAFETY: no pattern asks for 0 bytes.
        let start = black_box(unsafe { self.0.alloc(layout) });
        assert!(!start.is_null());
        start
    }

    fn free(self, start: *mut u8, layout: Layout) {
        // SAFETY: none in most cases: the misuse is the test, and this process has nothing else to lose.
        unsafe { self.0.dealloc(black_box(start), layout) };
    }

    fn realloc(self, start: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        // SAFETY: as above.
        unsafe { self.0.realloc(black_box(start), layout, bytes) }
    }

    /// A block with others of its size on both sides, so that its pool stays in use whatever happens to it.
    fn victim(self, layout: Layout) -> *mut u8 {
        self.three(layout)[1]
    }

    /// Three blocks, by their addresses: the feature `hardened` hands them out in no order.
    fn three(self, layout: Layout) -> [*mut u8; 3] {
        let mut blocks = [(); 3].map(|()| self.alloc(layout));
        blocks.sort_unstable();
        black_box(blocks)
    }
}

const fn layout(bytes: usize, align: usize) -> Layout {
    match Layout::from_size_align(bytes, align) {
        Ok(layout) => layout,
        Err(_) => panic!("a valid layout"),
    }
}

/// Of a class that std has no blocks of: a thread's start allocates too, and might be given what was freed once.
const SMALL: Layout = layout(400, 8);
const LARGE: Layout = layout(64 << 10, 16);

/// Fills `bytes` from `start + offset` on.
fn write(start: *mut u8, offset: isize, bytes: usize) {
    // SAFETY: the misuse is the test.
    unsafe { black_box(start).offset(offset).write_bytes(0x41, bytes) };
}

/// Whether any of `bytes` from `start` on is what `write` writes.
fn shows(start: *const u8, bytes: usize) -> bool {
    // SAFETY: the misuse is the test; volatile, because the block may be anybody's.
    (0..bytes).any(|index| unsafe { black_box(start).add(index).read_volatile() } == 0x41)
}

/// What a pattern returns when it gets to its end: whether its aim was out of reach.
type Pattern = fn(Heap) -> bool;

fn double_free(heap: Heap, layout: Layout, between: impl FnOnce()) -> bool {
    let victim = heap.victim(layout);
    heap.free(victim, layout);
    between();
    heap.free(victim, layout);
    false
}

fn overflow(heap: Heap, layout: Layout, bytes: usize) -> bool {
    let victim = heap.victim(layout);
    write(victim, layout.size() as isize, bytes);
    heap.free(victim, layout);
    false
}

fn underflow(heap: Heap, layout: Layout, bytes: usize) -> bool {
    let victim = heap.victim(layout);
    write(victim, -(bytes as isize), bytes);
    heap.free(victim, layout);
    false
}

fn write_after_free(heap: Heap, layout: Layout) -> bool {
    let victim = heap.victim(layout);
    heap.free(victim, layout);
    write(victim, 24, 8);
    false
}

/// The next block of that size would be the same one.
fn write_after_reuse(heap: Heap, layout: Layout) -> bool {
    let victim = heap.victim(layout);
    heap.free(victim, layout);
    let next = heap.alloc(layout);
    write(victim, 24, 8);
    heap.free(next, layout);
    false
}

fn read_after_free(heap: Heap, layout: Layout) -> bool {
    let victim = heap.victim(layout);
    write(victim, 0, layout.size());
    heap.free(victim, layout);
    !shows(victim, layout.size())
}

fn read_of_new_memory(heap: Heap, layout: Layout) -> bool {
    for _ in 0..4 {
        let old = heap.alloc(layout);
        write(old, 0, layout.size());
        heap.free(old, layout);
    }
    !shows(heap.alloc(layout), layout.size())
}

fn reuse_at_once(heap: Heap, layout: Layout) -> bool {
    let victim = heap.victim(layout);
    heap.free(victim, layout);
    (0..8).all(|_| heap.alloc(layout) != victim)
}

fn wrong_layout(heap: Heap, right: Layout, wrong: Layout) -> bool {
    let victim = heap.victim(right);
    heap.free(victim, wrong);
    false
}

fn free_of(heap: Heap, start: *mut u8) -> bool {
    heap.alloc(SMALL);
    heap.free(start, SMALL);
    false
}

/// Name and pattern. The table in `docs/misuse.md` has a row for each.
const PATTERNS: &[(&str, Pattern)] = &[
    ("double_free_small", |heap| double_free(heap, SMALL, || ())),
    ("double_free_small_delayed", |heap| {
        let other = heap.victim(SMALL);
        double_free(heap, SMALL, || heap.free(other, SMALL))
    }),
    ("double_free_small_interleaved", |heap| {
        let others: [_; 10_000] = std::array::from_fn(|_| heap.alloc(SMALL));
        double_free(heap, SMALL, || others.into_iter().for_each(|other| heap.free(other, SMALL)))
    }),
    ("double_free_small_elsewhere", |heap| {
        let victim = heap.victim(SMALL);
        let address = victim.expose_provenance();
        heap.free(victim, SMALL);
        let other = thread::spawn(move || heap.free(std::ptr::with_exposed_provenance_mut(address), SMALL));
        other.join().expect("it does not panic");
        false
    }),
    ("double_free_small_reuse", |heap| {
        let victim = heap.victim(SMALL);
        heap.free(victim, SMALL);
        let next = heap.alloc(SMALL);
        heap.free(victim, SMALL);
        heap.free(next, SMALL);
        false
    }),
    ("double_free_large", |heap| double_free(heap, LARGE, || ())),
    ("double_free_large_delayed", |heap| {
        let other = heap.victim(LARGE);
        double_free(heap, LARGE, || heap.free(other, LARGE))
    }),
    ("double_free_by_realloc", |heap| {
        let victim = heap.victim(SMALL);
        let moved = heap.realloc(victim, SMALL, 200);
        heap.free(victim, SMALL);
        heap.free(moved, layout(200, 8));
        false
    }),
    ("free_unaligned_by_1", |heap| free_of(heap, heap.victim(SMALL).wrapping_add(1))),
    ("free_unaligned_by_8", |heap| free_of(heap, heap.victim(SMALL).wrapping_add(8))),
    ("free_unaligned_many", |heap| (1..64).any(|offset| free_of(heap, heap.victim(SMALL).wrapping_add(offset)))),
    ("free_unaligned_large", |heap| {
        heap.free(heap.victim(LARGE).wrapping_add(16), LARGE);
        false
    }),
    ("free_of_the_stack", |heap| free_of(heap, (&raw mut *black_box(&mut [0_u64; 8])).cast())),
    ("free_of_a_static", |heap| {
        static NOT_OURS: [u64; 8] = [0; 8];
        free_of(heap, (&raw const NOT_OURS).cast_mut().cast())
    }),
    ("free_of_mapped_memory", |heap| free_of(heap, system::map(true))),
    ("free_of_protected_memory", |heap| free_of(heap, system::map(false))),
    ("free_of_null", |heap| free_of(heap, null_mut())),
    ("free_of_garbage", |heap| free_of(heap, without_provenance_mut(0x4141_4141_4141_4140))),
    ("free_of_the_systems_block", |heap| {
        // SAFETY: the size is not 0.
        free_of(heap, unsafe { System.alloc(SMALL) })
    }),
    ("free_of_a_block_never_allocated", |heap| free_of(heap, heap.victim(SMALL).wrapping_add(40 * SMALL.size()))),
    ("free_of_a_pool_never_used", |heap| free_of(heap, heap.victim(SMALL).wrapping_add(1 << 20))),
    ("free_with_another_class", |heap| wrong_layout(heap, SMALL, layout(128, 8))),
    ("free_with_another_size_of_the_class", |heap| wrong_layout(heap, SMALL, layout(396, 8))),
    ("free_with_another_alignment", |heap| wrong_layout(heap, SMALL, layout(400, 16))),
    ("free_of_large_as_small", |heap| wrong_layout(heap, LARGE, SMALL)),
    ("free_of_small_as_large", |heap| wrong_layout(heap, SMALL, LARGE)),
    ("realloc_with_another_class", |heap| {
        heap.realloc(heap.victim(SMALL), layout(128, 8), 300);
        false
    }),
    ("realloc_after_free", |heap| {
        let victim = heap.victim(SMALL);
        heap.free(victim, SMALL);
        heap.realloc(victim, SMALL, 200);
        false
    }),
    ("overflow_small_1_byte", |heap| overflow(heap, SMALL, 1)),
    ("overflow_small_8_bytes", |heap| overflow(heap, SMALL, 8)),
    ("overflow_small_32_bytes", |heap| overflow(heap, SMALL, 32)),
    ("overflow_small_1_mib", |heap| overflow(heap, SMALL, 1 << 20)),
    ("overflow_large_1_byte", |heap| overflow(heap, LARGE, 1)),
    ("overflow_large_8_bytes", |heap| overflow(heap, LARGE, 8)),
    ("overflow_jumps_over_the_pad", |heap| {
        let [.., victim] = heap.three(SMALL);
        write(victim, SMALL.size() as isize + 200, 8);
        heap.free(victim, SMALL);
        false
    }),
    ("overflow_after_shrinking", |heap| {
        let shrunk = heap.realloc(heap.victim(SMALL), SMALL, 396);
        write(shrunk, 396, 4);
        heap.free(shrunk, layout(396, 8));
        false
    }),
    ("underflow_small_1_byte", |heap| underflow(heap, SMALL, 1)),
    ("underflow_small_8_bytes", |heap| underflow(heap, SMALL, 8)),
    ("underflow_small_32_bytes", |heap| underflow(heap, SMALL, 32)),
    ("underflow_large_8_bytes", |heap| underflow(heap, LARGE, 8)),
    ("write_after_free_small", |heap| write_after_free(heap, SMALL)),
    ("write_after_free_small_reuse", |heap| write_after_reuse(heap, SMALL)),
    ("write_after_free_large", |heap| write_after_free(heap, LARGE)),
    ("write_after_free_large_reuse", |heap| write_after_reuse(heap, LARGE)),
    ("write_after_realloc", |heap| {
        let victim = heap.victim(SMALL);
        let moved = heap.realloc(victim, SMALL, 200);
        write(victim, 0, 8);
        heap.free(moved, layout(200, 8));
        false
    }),
    ("read_after_free_small", |heap| read_after_free(heap, SMALL)),
    ("read_after_free_large", |heap| read_after_free(heap, LARGE)),
    ("read_of_new_memory_small", |heap| read_of_new_memory(heap, SMALL)),
    ("read_of_new_memory_large", |heap| read_of_new_memory(heap, LARGE)),
    ("reuse_at_once_small", |heap| reuse_at_once(heap, SMALL)),
    ("reuse_at_once_large", |heap| reuse_at_once(heap, LARGE)),
    ("impossibly_large", |heap| {
        // SAFETY: the size is not 0.
        unsafe { heap.0.alloc(layout(isize::MAX as usize - 15, 16)).is_null() }
    }),
    ("executable_heap", |heap| {
        let victim = heap.victim(SMALL).addr();
        !system::is_executable(victim)
    }),
];

/// What became of a pattern, in the table's words.
fn outcome(output: &Output) -> &'static str {
    let printed = String::from_utf8_lossy(&output.stderr);
    let last = printed.lines().next_back().unwrap_or_default();
    match output.status.code() {
        Some(PREVENTED) => "prevented",
        Some(0) => "missed",
        _ if common::is_abort(output.status) && last.starts_with("pymalloc: ") => "caught",
        _ if common::is_abort(output.status) || system::is_fault(output.status) => "crash",
        _ => panic!("{:?}: {printed}", output.status),
    }
}

/// Runs a pattern in this process, and then all that finds misuse late.
fn run_here(pattern: Pattern, is_debug: bool) -> ! {
    common::prepare_to_abort();
    let prevented = pattern(Heap(if is_debug { &DEBUG } else { &PLAIN }));
    if is_debug {
        DEBUG.check_all();
        DEBUG.empty_quarantine();
    }
    pymalloc::flush_thread_cache();
    pymalloc::purge();
    std::process::exit(if prevented { PREVENTED } else { 0 });
}

/// The rows of the table: pattern, plain, hardened, debug.
fn table() -> BTreeMap<String, [String; 3]> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/misuse.md");
    let text = std::fs::read_to_string(path).expect("the table");
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [name, .., plain, hardened, debug] = cells[..] else { panic!("{row:?} has too few cells") };
        (name.trim_matches('`').to_owned(), [plain.to_owned(), hardened.to_owned(), debug.to_owned()])
    })
    .collect()
}

#[test]
fn every_pattern_ends_as_the_table_says() {
    const NAME: &str = "every_pattern_ends_as_the_table_says";
    if let (Ok(name), Ok(allocator)) = (env::var(PATTERN), env::var(ALLOCATOR)) {
        let (_, pattern) = PATTERNS.iter().find(|(known, _)| *known == name).expect("a pattern");
        run_here(*pattern, allocator == "debug");
    }
    let table = table();
    let mut wrong = Vec::new();
    for (name, _) in PATTERNS {
        // Without the debug hooks, the allocator is what the feature makes of it.
        let own = if cfg!(feature = "hardened") { (1, "hardened") } else { (0, "plain") };
        for (column, allocator) in [own, (2, "debug")] {
            let mut output = Command::new(env::current_exe().expect("an executable"))
                .args(["--exact", NAME, "--nocapture", "--test-threads=1"])
                .envs([(PATTERN, name), (ALLOCATOR, &allocator)])
                .output()
                .expect("a child");
            common::without_emulators_line(&mut output.stderr);
            let found = outcome(&output);
            let said = table.get(*name).map_or("", |row| row[column].as_str());
            // What the system's malloc does with a large block is not ours to say.
            if found != said && !(said == "system's" && matches!(found, "crash" | "missed" | "prevented")) {
                wrong.push(format!("{name} on {allocator}: {found}, but the table says {said:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(table.len(), PATTERNS.len(), "a row for each pattern");
}
