//! The debug hooks: every misuse that they are said to find ends a process of its own with the dump and the line that
//! the documentation promises; and programs without misuse run on them as on the allocator inside.

mod common;

use std::alloc::{GlobalAlloc, Layout, System, alloc, alloc_zeroed, dealloc, realloc};
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::thread;

#[cfg(unix)]
use common::or_exit;
use common::{Block, Rng, abort_of, thread_number};
use pymalloc::Pymalloc;
use pymalloc::debug::{CLEAN_BYTE, DEAD_BYTE, DebugAlloc, FORBIDDEN_BYTE, Origins, set_origins};

/// The thread that may not allocate, from its misuse on, by the kernel's number; 0 for none. libtest's own may: it
/// waits for the test, and allocates for that at a moment of its own.
static FORBIDDEN: AtomicI64 = AtomicI64::new(0);

fn forbid() {
    FORBIDDEN.store(thread_number(), Ordering::Relaxed);
}

/// `Pymalloc`, but a call of the thread to which it is forbidden ends the process in another way than the misuse does.
struct Watched(Pymalloc);

fn forbidden() {
    let thread = FORBIDDEN.load(Ordering::Relaxed);
    if thread != 0 && thread == thread_number() {
        // SAFETY: always allowed.
        unsafe { libc::_exit(99) };
    }
}

// SAFETY: all calls go to an allocator that keeps the contract.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        forbidden();
        // SAFETY: the caller keeps the same contract.
        unsafe { self.0.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        forbidden();
        // SAFETY: the caller keeps the same contract.
        unsafe { self.0.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static GLOBAL: DebugAlloc<Watched> = DebugAlloc::new(Watched(Pymalloc::new()));

const BYTES_16: Layout = Layout::new::<[u64; 2]>();
const BYTES_64: Layout = Layout::new::<[u64; 8]>();
const LARGE: Layout = Layout::new::<[u64; 1000]>();
const OVER_ALIGNED: Layout = match Layout::from_size_align(100, 4096) {
    Ok(layout) => layout,
    Err(_) => panic!("a valid layout"),
};

fn block(layout: Layout) -> *mut u8 {
    // SAFETY: the size is not 0.
    black_box(unsafe { alloc(layout) })
}

fn free(start: *mut u8, layout: Layout) {
    // SAFETY: none in most cases: the misuse is the test, and this process has nothing else to lose.
    unsafe { dealloc(black_box(start), layout) };
}

/// Frees what must be found, by a call that allocates nothing.
fn last_free(start: *mut u8, layout: Layout) {
    forbid();
    free(start, layout);
}

/// Writes where the program has no right to.
fn scribble(start: *mut u8, offset: isize, bytes: &[u8]) {
    // SAFETY: the misuse is the test; the pads or a quarantined block lie there.
    unsafe { start.offset(offset).copy_from(black_box(bytes.as_ptr()), bytes.len()) };
}

/// A test whose child does the misuse of the body; every text is a part of what it prints, in that order.
macro_rules! misuses {
    ($($name:ident: [$($text:expr),+] => $body:block)+) => { $(
        #[test]
        fn $name() {
            let printed = abort_of(stringify!($name), || $body);
            let mut rest = printed.as_str();
            for text in [$($text),+] {
                let at = rest.find(text).unwrap_or_else(|| panic!("{text:?} does not come next in\n{rest}"));
                rest = &rest[at + text.len()..];
            }
            let last = printed.trim_end().lines().next_back().expect("a line");
            assert!(last.starts_with("pymalloc: ") && last.ends_with(')'), "{last:?}");
        }
    )+ };
}

misuses! {
    overflow_by_one: [
        "Debug memory block at address p=0x", ": serial number ",
        "    16 bytes originally requested, aligned to 8\n",
        "    The 16 pad bytes at p-16 are FORBIDDENBYTE, as expected.\n",
        "    The 16 pad bytes at tail=0x", " are not all FORBIDDENBYTE (0xfd):\n",
        "        at tail+0: 0x78 *** OUCH\n", "        at tail+1: 0xfd\n", "        at tail+15: 0xfd\n",
        "    Data at p: cd cd cd cd cd cd cd cd cd cd cd cd cd cd cd cd\n",
        "\nEnable tracing to get the memory block's allocation traceback\n",
        "\npymalloc: free: bad trailing pad byte: written up to 1 byte beyond the block's end (address 0x",
        ", serial number "
    ] => {
        let start = block(BYTES_16);
        scribble(start, 16, b"x");
        last_free(start, BYTES_16);
    }

    overflow_tells_the_farthest_byte: [
        "at tail+3: 0xfd", "at tail+4: 0x79 *** OUCH", "written up to 5 bytes beyond"
    ] => {
        let start = block(BYTES_64);
        scribble(start, 64 + 4, b"y");
        last_free(start, BYTES_64);
    }

    overflow_of_a_large_block: [
        "8000 bytes originally requested", "at tail+15: 0x7a *** OUCH", "Data at p: cd cd cd cd cd cd cd cd ... cd cd",
        "written up to 16 bytes beyond"
    ] => {
        let start = block(LARGE);
        scribble(start, 8000, &[b'z'; 16]);
        last_free(start, LARGE);
    }

    underflow_by_one: [
        "    The 16 pad bytes at p-16 are not all FORBIDDENBYTE (0xfd):\n",
        "        at p-16: 0xfd\n", "        at p-2: 0xfd\n", "        at p-1: 0x00 *** OUCH\n",
        "    The 16 pad bytes at tail=0x", " are FORBIDDENBYTE, as expected.\n",
        "pymalloc: free: bad leading pad byte: written up to 1 byte before the block's start"
    ] => {
        let start = block(BYTES_64);
        scribble(start, -1, &[0]);
        last_free(start, BYTES_64);
    }

    underflow_of_an_over_aligned_block: [
        "100 bytes originally requested, aligned to 4096",
        "    The 4096 pad bytes at p-4096 are not all FORBIDDENBYTE (0xfd):\n        at p-100: 0x41 *** OUCH\n",
        "        at p-85: 0x41 *** OUCH\n        and 4 more\n",
        "written up to 100 bytes before"
    ] => {
        let start = block(OVER_ALIGNED);
        scribble(start, -100, &[b'A'; 20]);
        last_free(start, OVER_ALIGNED);
    }

    overflow_of_an_over_aligned_block: ["at tail+2: 0x01 *** OUCH", "written up to 3 bytes beyond"] => {
        let start = block(OVER_ALIGNED);
        scribble(start, 102, &[1]);
        last_free(start, OVER_ALIGNED);
    }

    overflow_found_by_realloc: ["at tail+0: 0x78 *** OUCH", "pymalloc: realloc: bad trailing pad byte"] => {
        let start = block(BYTES_16);
        scribble(start, 16, b"x");
        forbid();
        // SAFETY: apart from the overflow, a right call.
        let _ = unsafe { realloc(start, BYTES_16, 32) };
    }

    overflow_found_by_check_all: ["at tail+0: 0x78 *** OUCH", "pymalloc: check_all: bad trailing pad byte"] => {
        let start = block(BYTES_16);
        scribble(start, 16, b"x");
        forbid();
        GLOBAL.check_all();
    }

    size_of_another_block: [
        "64 bytes originally requested",
        "pymalloc: free: wrong layout: 16 bytes aligned to 8, but allocated as 64 bytes aligned to 8"
    ] => {
        last_free(block(BYTES_64), BYTES_16);
    }

    size_of_a_large_block: ["wrong layout: 8000 bytes aligned to 8, but allocated as 64 bytes"] => {
        last_free(block(BYTES_64), LARGE);
    }

    another_alignment: ["wrong layout: 64 bytes aligned to 32, but allocated as 64 bytes aligned to 8"] => {
        last_free(block(BYTES_64), BYTES_64.align_to(32).expect("valid"));
    }

    realloc_with_another_layout: ["pymalloc: realloc: wrong layout: 16 bytes aligned to 8, but allocated as 64"] => {
        let start = block(BYTES_64);
        forbid();
        // SAFETY: the misuse is the test.
        let _ = unsafe { realloc(start, BYTES_16, 100) };
    }

    double_free: [
        "    The block was freed, and is in quarantine.\n",
        "    The 16 pad bytes at p-16 are DEADBYTE, as expected.\n",
        "    The 64 data bytes at p are DEADBYTE, as expected.\n",
        "pymalloc: free: double free: block is already free (address 0x"
    ] => {
        let start = block(BYTES_64);
        free(start, BYTES_64);
        last_free(start, BYTES_64);
    }

    double_free_of_a_large_block: ["8000 bytes originally requested", "double free: block is already free"] => {
        let start = block(LARGE);
        free(start, LARGE);
        last_free(start, LARGE);
    }

    double_free_in_another_thread: ["double free: block is already free"] => {
        let start = block(BYTES_64);
        free(start, BYTES_64);
        let address = start.expose_provenance();
        let freed = thread::spawn(move || free(std::ptr::with_exposed_provenance_mut(address), BYTES_64)).join();
        freed.expect("it does not panic");
    }

    double_free_after_the_quarantine: [
        "    The block was freed, and its memory given back.\n", "double free: block is already free"
    ] => {
        let start = block(BYTES_64);
        free(start, BYTES_64);
        GLOBAL.empty_quarantine();
        last_free(start, BYTES_64);
    }

    double_free_of_a_block_beyond_the_quarantine: ["its memory given back", "double free: block is already free"] => {
        let layout = Layout::new::<[u64; 1 << 20]>();
        let start = block(layout);
        free(start, layout);
        last_free(start, layout);
    }

    realloc_of_a_freed_block: ["pymalloc: realloc: block is already free"] => {
        let start = block(BYTES_64);
        free(start, BYTES_64);
        forbid();
        // SAFETY: the misuse is the test.
        let _ = unsafe { realloc(start, BYTES_64, 100) };
    }

    use_after_free_found_by_check_all: [
        "    The block was freed, and is in quarantine.\n", "    The 64 data bytes at p are not all DEADBYTE (0xdd):\n",
        "        at p+5: 0x75 *** OUCH\n        at p+6: 0x61 *** OUCH\n",
        "pymalloc: check_all: use after free: a freed block was written into"
    ] => {
        let start = block(BYTES_64);
        free(start, BYTES_64);
        scribble(start, 5, b"ua");
        forbid();
        GLOBAL.check_all();
    }

    use_after_realloc: ["at p+0: 0x75 *** OUCH", "use after free: a freed block was written into"] => {
        let stale = block(BYTES_64);
        // SAFETY: a right call.
        black_box(unsafe { realloc(stale, BYTES_64, 60) });
        scribble(stale, 0, b"u");
        forbid();
        GLOBAL.check_all();
    }

    use_after_free_found_before_reuse: [
        "at p+63: 0x75 *** OUCH", "pymalloc: end of quarantine: use after free: a freed block was written into"
    ] => {
        let start = block(BYTES_64);
        free(start, BYTES_64);
        scribble(start, 63, b"u");
        // 4 MiB of other blocks push it out.
        for _ in 0..1000 {
            free(block(LARGE), LARGE);
        }
    }

    write_before_a_freed_block: [
        "pad bytes at p-16 are not all DEADBYTE", "at p-1: 0x75 *** OUCH", "use after free"
    ] => {
        let start = block(BYTES_64);
        free(start, BYTES_64);
        scribble(start, -1, b"u");
        GLOBAL.empty_quarantine();
    }

    inside_a_block: [
        "64 bytes originally requested",
        "pymalloc: free: no block starts at this address; it lies 8 bytes after the start of a live one (address 0x"
    ] => {
        let start = block(BYTES_64);
        last_free(start.wrapping_add(8), BYTES_64);
    }

    inside_a_pad: ["it lies 16 bytes before the start of a live one"] => {
        let start = block(BYTES_64);
        last_free(start.wrapping_sub(16), BYTES_64);
    }

    a_block_of_the_system: ["pymalloc: free: no block starts at this address (address 0x"] => {
        // SAFETY: the size is not 0.
        let start = unsafe { System.alloc(BYTES_64) };
        last_free(start, BYTES_64);
    }

    an_address_that_is_not_mapped: ["pymalloc: free: no block starts at this address (address 0x4000)"] => {
        last_free(std::ptr::without_provenance_mut(0x4000), BYTES_64);
    }

    origins_are_printed: [
        "\nMemory block allocated at (most recent call first):\n  place 1\n",
        "\nMemory block freed at (most recent call first):\n  place 2\n",
        "\npymalloc: free: double free"
    ] => {
        static PLACE: AtomicUsize = AtomicUsize::new(0);
        static ORIGINS: Origins = Origins::new(
            || PLACE.load(Ordering::Relaxed) as u32,
            |number, write| {
                write("  place ");
                write(match number { 1 => "1\n", 2 => "2\n", _ => "unknown\n" });
            },
        );
        set_origins(Some(&ORIGINS));
        PLACE.store(1, Ordering::Relaxed);
        let start = block(BYTES_64);
        PLACE.store(2, Ordering::Relaxed);
        free(start, BYTES_64);
        PLACE.store(3, Ordering::Relaxed);
        last_free(start, BYTES_64);
    }
}

fn bytes_at<'a>(start: *const u8, bytes: usize) -> &'a [u8] {
    // SAFETY: callers pass initialised bytes of blocks that exist.
    unsafe { std::slice::from_raw_parts(start, bytes) }
}

fn serves_every_layout<A: GlobalAlloc>(inner: A) {
    let debug = DebugAlloc::with_quarantine(inner, 1 << 20);
    for align_shift in 0..=13 {
        for bytes in [1, 2, 7, 8, 9, 15, 16, 17, 100, 480, 481, 512, 513, 5000] {
            let layout = Layout::from_size_align(bytes, 1 << align_shift).expect("valid");
            // SAFETY: right calls of an allocator; pads lie on both sides of a block.
            unsafe {
                let start = debug.alloc(layout);
                assert!(!start.is_null() && start.addr().is_multiple_of(layout.align()));
                assert_eq!(bytes_at(start, bytes), vec![CLEAN_BYTE; bytes]);
                assert_eq!(bytes_at(start.sub(16), 16), [FORBIDDEN_BYTE; 16]);
                assert_eq!(bytes_at(start.add(bytes), 16), [FORBIDDEN_BYTE; 16]);
                start.write_bytes(7, bytes);
                let moved = debug.realloc(start, layout, bytes + 10);
                assert_ne!(moved, start);
                assert_eq!(bytes_at(moved, bytes), vec![7; bytes]);
                assert_eq!(bytes_at(moved.add(bytes), 10), [CLEAN_BYTE; 10]);
                assert_eq!(bytes_at(start, bytes), vec![DEAD_BYTE; bytes], "the old block is in quarantine");
                let longer = Layout::from_size_align(bytes + 10, layout.align()).expect("valid");
                let shorter = debug.realloc(moved, longer, 1);
                assert_eq!(bytes_at(shorter, 1), [7]);
                let zeroed = debug.alloc_zeroed(layout);
                assert_eq!(bytes_at(zeroed, bytes), vec![0; bytes]);
                let checked = debug.check_all();
                assert_eq!((checked.blocks_live, checked.bytes_live), (2, bytes + 1));
                debug.dealloc(shorter, Layout::from_size_align(1, layout.align()).expect("valid"));
                debug.dealloc(zeroed, layout);
            }
        }
    }
    let checked = debug.check_all();
    assert_eq!((checked.blocks_live, checked.bytes_live), (0, 0));
    assert!(checked.blocks_quarantined > 0 && checked.bytes_quarantined <= 1 << 20);
    debug.empty_quarantine();
    let checked = debug.check_all();
    assert_eq!((checked.blocks_quarantined, checked.bytes_quarantined), (0, 0));
}

#[test]
fn every_layout_is_served_whatever_the_inner_allocator() {
    serves_every_layout(Pymalloc::new());
    serves_every_layout(System);
    serves_every_layout(DebugAlloc::new(System));
}

/// Counts what is outstanding, and refuses on request.
#[derive(Default)]
struct Counting {
    live: AtomicUsize,
    refuse: AtomicBool,
    left: AtomicUsize,
}

// SAFETY: the system keeps the contract; refusing is allowed.
unsafe impl GlobalAlloc for &Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = self.live.load(Ordering::Relaxed) + layout.size();
        if self.refuse.load(Ordering::Relaxed) && live > self.left.load(Ordering::Relaxed) {
            return std::ptr::null_mut();
        }
        self.live.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the same contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        self.live.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the same contract.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[test]
fn without_memory_the_quarantine_is_emptied_then_null_comes_and_nothing_is_lost() {
    let counting = Counting::default();
    let debug = DebugAlloc::new(&counting);
    // SAFETY: right calls of an allocator.
    unsafe {
        let kept = debug.alloc(BYTES_64);
        kept.write_bytes(5, 64);
        for _ in 0..1000 {
            debug.dealloc(debug.alloc(LARGE), LARGE);
        }
        let quarantined = debug.check_all().bytes_quarantined;
        assert!(quarantined > 1 << 20, "{quarantined}");
        counting.left.store(counting.live.load(Ordering::Relaxed), Ordering::Relaxed);
        counting.refuse.store(true, Ordering::Relaxed);
        let served = debug.alloc(LARGE);
        assert!(!served.is_null(), "out of the quarantine's memory");
        assert_eq!(debug.check_all().blocks_quarantined, 0);
        counting.left.store(0, Ordering::Relaxed);
        assert!(debug.alloc(BYTES_64).is_null());
        assert!(debug.alloc_zeroed(BYTES_64).is_null());
        assert!(debug.realloc(kept, BYTES_64, 65).is_null());
        assert_eq!(bytes_at(kept, 64), [5; 64]);
        // More than an allocation may be, with the pads.
        let most = Layout::from_size_align(isize::MAX as usize - 7, 8).expect("valid");
        assert!(debug.alloc(most).is_null());
        debug.dealloc(kept, BYTES_64);
        debug.dealloc(served, LARGE);
    }
    assert_eq!(debug.check_all().blocks_live, 0);
    drop(debug);
    assert_eq!(counting.live.load(Ordering::Relaxed), 0, "all came back to the inner allocator");
}

#[test]
fn a_quarantine_of_nothing_gives_back_at_once() {
    let counting = Counting::default();
    let debug = DebugAlloc::with_quarantine(&counting, 0);
    // SAFETY: right calls of an allocator.
    unsafe { debug.dealloc(debug.alloc(BYTES_64), BYTES_64) };
    assert_eq!(counting.live.load(Ordering::Relaxed), 0);
}

#[test]
fn records_of_old_frees_are_forgotten_and_their_addresses_used_again() {
    let debug = DebugAlloc::with_quarantine(Pymalloc::new(), 0);
    let layout = Layout::new::<[u64; 3]>();
    for _ in 0..3 {
        // SAFETY: right calls of an allocator.
        unsafe {
            let live: Vec<_> = (0..100_000).map(|_| debug.alloc(layout)).collect();
            assert_eq!(debug.check_all().blocks_live, live.len());
            live.into_iter().for_each(|start| debug.dealloc(start, layout));
        }
        assert_eq!(debug.check_all().blocks_live, 0);
    }
}

#[test]
fn threads_share_it_while_somebody_checks_all() {
    let (sender, receiver) = channel::<Block>();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|worker| {
                let sender = sender.clone();
                scope.spawn(move || {
                    let mut rng = Rng::new(worker);
                    let mut live = Vec::new();
                    for serial in 0..3000 {
                        live.push(Block::random(serial, &mut rng));
                        if live.len() > 50 {
                            let block = live.swap_remove(rng.below(live.len()));
                            if rng.below(2) == 0 { sender.send(block).expect("received below") } else { drop(block) }
                        }
                    }
                })
            })
            .collect();
        let done = &done;
        scope.spawn(move || {
            while !done.load(Ordering::Relaxed) {
                GLOBAL.check_all();
                thread::yield_now();
            }
        });
        drop(sender);
        receiver.into_iter().for_each(drop);
        workers.into_iter().for_each(|worker| worker.join().expect("its checks passed"));
        done.store(true, Ordering::Relaxed);
    });
    GLOBAL.empty_quarantine();
    pymalloc::self_check().expect("a sound heap");
}

#[cfg(unix)]
#[test]
fn a_forked_child_of_a_busy_program_allocates_frees_and_checks() {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for worker in 0..3 {
            let done = &done;
            scope.spawn(move || {
                let mut rng = Rng::new(worker);
                while !done.load(Ordering::Relaxed) {
                    drop((0..50).map(|serial| Block::random(serial, &mut rng)).collect::<Vec<_>>());
                }
            });
        }
        let inherited = Block::random(1, &mut Rng::new(9));
        for _ in 0..40 {
            // SAFETY: the child uses the allocator only, and ends by `_exit`.
            let child = unsafe { libc::fork() };
            assert_ne!(child, -1);
            if child == 0 {
                // SAFETY: sets a timer, so that a child that hangs ends.
                unsafe { libc::alarm(60) };
                or_exit(|| {
                    inherited.check();
                    let mut rng = Rng::new(3);
                    let live: Vec<_> = (0..200).map(|serial| Block::random(serial, &mut rng)).collect();
                    GLOBAL.check_all();
                    drop(live);
                });
                // SAFETY: always allowed.
                unsafe { libc::_exit(0) };
            }
            let mut status = 0;
            // SAFETY: our own child, waited for once.
            assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
            assert_eq!(status, 0, "wait status of the child");
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn zeroed_memory_is_zero_also_when_it_was_used_before() {
    for round in 0..100 {
        // SAFETY: right calls of an allocator.
        unsafe {
            let start = alloc_zeroed(BYTES_64);
            assert_eq!(bytes_at(start, 64), [0; 64]);
            start.write_bytes(round, 64);
            dealloc(start, BYTES_64);
            GLOBAL.empty_quarantine();
        }
    }
}

#[test]
fn panics_unwind_wherever_their_exceptions_lie() {
    common::panic_at_many_addresses();
}
