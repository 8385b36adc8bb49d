//! Does the work of one row once, and prints the number of operations. It runs under callgrind, which counts only
//! inside `counted`.
//!
//! Sizes and counts are frozen with the baseline. There is no randomness except a seeded shuffle, no clock, and never
//! two threads that run at once. So two runs execute the same instructions.

use pymalloc::Pymalloc;
use std::alloc::{GlobalAlloc, Layout, alloc, alloc_zeroed, dealloc, handle_alloc_error, realloc};
use std::ffi::c_void;
use std::hint::black_box;
use std::process::ExitCode;
use std::{ptr, thread};

#[global_allocator]
static GLOBAL: Pymalloc = Pymalloc::new();

/// Number of pairs in rows without a live set.
const PAIRS: usize = 100_000;
/// Number of blocks that are counted. The same number is handled before, so that magazine and depot reach their steady
/// state.
const BLOCKS: usize = 20_000;
const SHUFFLED_BLOCKS: usize = 50_000;
const FRESH_BLOCKS: usize = 2_000;
const DEPOT_BLOCKS: usize = 1_000;
const DEPOT_ROUNDS: usize = 50;
const GROW_ROUNDS: usize = 500;
const THREADS: usize = 100;
const SEED: u64 = 0x5EED_0B10_C5A1_10C8;

const BYTES_48: Layout = Layout::new::<[u64; 6]>();
const BYTES_64: Layout = Layout::new::<[u64; 8]>();

/// The function that callgrind counts, by its name.
#[unsafe(no_mangle)]
#[inline(never)]
fn counted(body: &mut dyn FnMut()) {
    body();
    // Keeps the call from becoming a jump into the body: callgrind has to see the end of this function.
    black_box(());
}

#[inline(always)]
fn block(layout: Layout) -> *mut u8 {
    // SAFETY: no layout here has size 0.
    checked(unsafe { alloc(layout) }, layout)
}

#[inline(always)]
fn zeroed_block(layout: Layout) -> *mut u8 {
    // SAFETY: no layout here has size 0.
    checked(unsafe { alloc_zeroed(layout) }, layout)
}

#[inline(always)]
fn checked(block: *mut u8, layout: Layout) -> *mut u8 {
    if block.is_null() {
        handle_alloc_error(layout);
    }
    black_box(block)
}

/// # Safety
/// `block` is a block of `layout`, and the caller owns it.
#[inline(always)]
unsafe fn free(block: *mut u8, layout: Layout) {
    // SAFETY: the caller's promise.
    unsafe { dealloc(block, layout) }
}

/// Blocks of 64 bytes.
struct Blocks(Vec<*mut u8>);

// SAFETY: the owner of a block may free it on any thread.
unsafe impl Send for Blocks {}

impl Blocks {
    fn new(count: usize) -> Self {
        Self((0..count).map(|_| block(BYTES_64)).collect())
    }

    fn free_all(self) {
        for block in self.0 {
            // SAFETY: a block of ours, named once.
            unsafe { free(block, BYTES_64) };
        }
    }

    /// Frees all but the last `counted_blocks` uncounted, then those counted by callgrind.
    fn free_counted(mut self, counted_blocks: usize) {
        let last = Self(self.0.split_off(self.0.len() - counted_blocks));
        self.free_all();
        counted(&mut || {
            for &block in &last.0 {
                // SAFETY: a block of ours, named once.
                unsafe { free(block, BYTES_64) };
            }
        });
    }

    /// Allocates, counted by callgrind.
    fn new_counted(count: usize) -> Self {
        let mut blocks = Vec::with_capacity(count);
        counted(&mut || {
            for _ in 0..count {
                blocks.push(block(BYTES_64));
            }
        });
        Self(blocks)
    }

    fn shuffle(&mut self) {
        let mut state = SEED;
        for index in (1..self.0.len()).rev() {
            // Marsaglia's xorshift64.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            self.0.swap(index, (state % (index as u64 + 1)) as usize);
        }
    }
}

fn pair_constant() -> usize {
    Blocks::new(1).free_all();
    let pairs = |count| {
        for _ in 0..count {
            // SAFETY: the block just allocated.
            unsafe { free(block(BYTES_48), BYTES_48) };
        }
    };
    pairs(1);
    counted(&mut || pairs(PAIRS));
    PAIRS
}

fn pair_runtime() -> usize {
    let pairs = |count| {
        for _ in 0..count {
            let layout = black_box(BYTES_48);
            // SAFETY: the block just allocated.
            unsafe { free(block(layout), layout) };
        }
    };
    pairs(1);
    counted(&mut || pairs(PAIRS));
    PAIRS
}

fn zeroed_used() -> usize {
    Blocks::new(1_000).free_all();
    counted(&mut || {
        for _ in 0..PAIRS {
            // SAFETY: the block just allocated.
            unsafe { free(zeroed_block(BYTES_64), BYTES_64) };
        }
    });
    PAIRS
}

fn zeroed_fresh() -> usize {
    free_pair_to_attach();
    counted(&mut || {
        for _ in 0..FRESH_BLOCKS {
            zeroed_block(BYTES_64);
        }
    });
    FRESH_BLOCKS
}

fn realloc_same() -> usize {
    let (smaller, larger) = (Layout::new::<[u8; 41]>(), Layout::new::<[u8; 48]>());
    let mut address = block(smaller);
    counted(&mut || {
        for _ in 0..PAIRS {
            for (old, new) in [(smaller, larger), (larger, smaller)] {
                let (old, new_bytes) = black_box((old, new.size()));
                // SAFETY: a block of the old layout, and a small size.
                address = black_box(unsafe { realloc(address, old, new_bytes) });
            }
        }
    });
    PAIRS * 2
}

fn realloc_grow() -> usize {
    let grow = || {
        let mut layout = Layout::new::<u64>();
        let mut address = block(layout);
        for bytes in (16..=512).step_by(8) {
            // SAFETY: a block of the layout, and a small size.
            address = checked(unsafe { realloc(address, layout, black_box(bytes)) }, layout);
            // SAFETY: 8 is a power of two, and the size is small.
            layout = unsafe { Layout::from_size_align_unchecked(bytes, 8) };
        }
        // SAFETY: the block as it is now.
        unsafe { free(address, layout) };
    };
    grow();
    counted(&mut || (0..GROW_ROUNDS).for_each(|_| grow()));
    GROW_ROUNDS * 63
}

fn depot_round_trip() -> usize {
    let mut blocks = Vec::with_capacity(DEPOT_BLOCKS);
    let mut round = || {
        for _ in 0..DEPOT_BLOCKS {
            blocks.push(block(BYTES_64));
        }
        while let Some(block) = blocks.pop() {
            // SAFETY: a block of ours, named once.
            unsafe { free(block, BYTES_64) };
        }
    };
    // Repeats until the magazine has grown.
    (0..20).for_each(|_| round());
    counted(&mut || (0..DEPOT_ROUNDS).for_each(|_| round()));
    DEPOT_BLOCKS * DEPOT_ROUNDS
}

fn refill_fresh() -> usize {
    let first = Blocks::new(BLOCKS);
    std::mem::forget((first, Blocks::new_counted(BLOCKS)));
    BLOCKS
}

fn refill() -> usize {
    Blocks::new(2 * BLOCKS).free_all();
    refill_fresh()
}

fn flush_in_order() -> usize {
    Blocks::new(2 * BLOCKS).free_counted(BLOCKS);
    BLOCKS
}

fn flush_shuffled() -> usize {
    let mut blocks = Blocks::new(BLOCKS + SHUFFLED_BLOCKS);
    blocks.shuffle();
    blocks.free_counted(SHUFFLED_BLOCKS);
    SHUFFLED_BLOCKS
}

fn in_another_thread(body: impl FnOnce() + Send) {
    thread::scope(|scope| scope.spawn(body).join()).expect("it does not panic");
}

fn remote_free() -> usize {
    let blocks = Blocks::new(2 * BLOCKS);
    in_another_thread(move || blocks.free_counted(BLOCKS));
    BLOCKS
}

fn remote_collect() -> usize {
    let blocks = Blocks::new(2 * BLOCKS);
    in_another_thread(move || blocks.free_all());
    std::mem::forget(Blocks::new_counted(BLOCKS));
    BLOCKS
}

/// A large allocator with one block, which no code uses.
struct OneBlock;

// SAFETY: the one caller has one block at a time, and never uses it.
unsafe impl GlobalAlloc for OneBlock {
    #[inline(never)]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        black_box(ptr::without_provenance_mut(layout.align()))
    }

    #[inline(never)]
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        black_box((ptr, layout.align()));
    }
}

fn large() -> usize {
    let allocator = Pymalloc::with_large(OneBlock);
    counted(&mut || {
        for _ in 0..PAIRS {
            let layout = black_box(Layout::new::<[u64; 128]>());
            // SAFETY: the size is not 0; the block is given back at once, by its layout.
            unsafe { allocator.dealloc(black_box(allocator.alloc(layout)), layout) };
        }
    });
    PAIRS
}

/// Gives this thread its cache, without using the class of 64 bytes.
fn free_pair_to_attach() {
    // SAFETY: the block just allocated.
    unsafe { free(block(BYTES_48), BYTES_48) };
}

fn thread_attach() -> usize {
    extern "C" fn attach(_: *mut c_void) -> *mut c_void {
        counted(&mut free_pair_to_attach);
        ptr::null_mut()
    }
    // std's threads allocate before their closure runs; threads of the C library do not.
    for _ in 0..THREADS {
        let mut id = 0;
        // SAFETY: a new thread that uses no data of ours, and is joined at once.
        let status = unsafe {
            libc::pthread_create(&raw mut id, ptr::null(), attach, ptr::null_mut())
                | libc::pthread_join(id, ptr::null_mut())
        };
        assert_eq!(status, 0, "a thread could not be started");
    }
    THREADS
}

fn main() -> ExitCode {
    let name = std::env::args().nth(1).unwrap_or_default();
    let row: fn() -> usize = match name.as_str() {
        "pair-constant" => pair_constant,
        "pair-runtime" => pair_runtime,
        "zeroed-used" => zeroed_used,
        "zeroed-fresh" => zeroed_fresh,
        "realloc-same" => realloc_same,
        "realloc-grow" => realloc_grow,
        "depot-round-trip" => depot_round_trip,
        "refill-fresh" => refill_fresh,
        "refill" => refill,
        "flush-in-order" => flush_in_order,
        "flush-shuffled" => flush_shuffled,
        "remote-free" => remote_free,
        "remote-collect" => remote_collect,
        "large" => large,
        "thread-attach" => thread_attach,
        _ => {
            eprintln!("rows: no row is called {name:?}");
            return ExitCode::from(2);
        }
    };
    println!("{}", row());
    ExitCode::SUCCESS
}
