//! The feature `hardened`: frees are checked at the call, wherever the block is by then; blocks wait before they are
//! used again; which is next can't be foretold; freed blocks are zero, and must stay so.
#![cfg(all(feature = "hardened", not(pymalloc_bypass)))]

mod common;

use std::alloc::{Layout, alloc, alloc_zeroed, dealloc, realloc};
use std::collections::BTreeSet;
use std::hint::black_box;
use std::thread;

use common::abort_of;
use pymalloc::stats::CacheUse;
use pymalloc::{Pymalloc, flush_thread_cache, purge, self_check, thread_caches};

#[global_allocator]
static GLOBAL: Pymalloc = Pymalloc::new();

/// Nothing else in these programs has blocks of this size.
const LAYOUT: Layout = Layout::new::<[u64; 50]>();
const BYTES: usize = LAYOUT.size();
/// Frees that a freed block waits for, at least.
const STAY_MIN: usize = 32;

fn block() -> usize {
    // SAFETY: the size is not 0.
    black_box(unsafe { alloc(LAYOUT) }).expose_provenance()
}

fn place(address: usize) -> *mut u8 {
    std::ptr::with_exposed_provenance_mut(black_box(address))
}

fn free(address: usize) {
    // SAFETY: none in the tests of misuse: the process is to end, and has nothing else to lose.
    unsafe { dealloc(place(address), LAYOUT) };
}

fn blocks(count: usize) -> Vec<usize> {
    (0..count).map(|_| block()).collect()
}

/// Pairs of allocations and frees, until whatever waits has left.
fn churn(pairs: usize) {
    for _ in 0..pairs {
        free(block());
    }
}

fn elsewhere(body: impl FnOnce() + Send + 'static) {
    thread::spawn(body).join().expect("it does not panic");
}

/// A test whose child does the misuse of the body and nothing more: only a check at the call can end it with a message.
macro_rules! ends_at_the_call {
    ($($name:ident: $message:literal => $body:block)+) => { $(
        #[test]
        fn $name() {
            let printed = abort_of(stringify!($name), || $body);
            assert!(printed.starts_with("pymalloc: "), "{printed:?}");
            assert!(printed.contains($message), "{printed:?} does not say {:?}", $message);
        }
    )+ };
}

ends_at_the_call! {
    freed_again_in_quarantine: "block is already free" => {
        let victim = block();
        free(victim);
        free(victim);
    }

    freed_again_in_a_magazine: "block is already free" => {
        let victim = block();
        free(victim);
        // Out of quarantine; blocks that are never handed out again stay in the magazine.
        blocks(200).into_iter().for_each(free);
        free(victim);
    }

    freed_again_in_a_depot: "block is already free" => {
        let all = blocks(2_000);
        let victim = all[1_000];
        all.into_iter().for_each(free);
        free(victim);
    }

    freed_again_at_home: "block is already free" => {
        let (_keep, victim) = (block(), block());
        free(victim);
        flush_thread_cache();
        free(victim);
    }

    freed_again_in_another_threads_quarantine: "block is already free" => {
        let victim = block();
        let (send, freed) = std::sync::mpsc::channel();
        let sleeper = thread::spawn(move || {
            free(victim);
            send.send(()).expect("it waits");
            thread::park();
        });
        freed.recv().expect("it sends");
        free(victim);
        sleeper.join().expect("not reached");
    }

    freed_again_in_its_owners_inbox: "block is already free" => {
        let (_keep, victim) = (block(), block());
        elsewhere(move || {
            free(victim);
            flush_thread_cache();
        });
        free(victim);
    }

    freed_again_by_another_thread: "block is already free" => {
        let victim = block();
        free(victim);
        elsewhere(move || free(victim));
    }

    freed_though_never_allocated: "never allocated" => {
        let near: BTreeSet<_> = blocks(8).into_iter().collect();
        // Pools hold more than are handed out; the one that holds these has others.
        let other = near.first().map(|first| first / pymalloc::POOL_BYTES * pymalloc::POOL_BYTES);
        let starts = (0..pymalloc::POOL_BYTES / BYTES).rev().map(|number| other.expect("a block") + number * BYTES);
        free(starts.into_iter().find(|start| !near.contains(start)).expect("one that is not in use"));
    }

    freed_inside: "not the start of a block" => { free(block() + 8) }
    freed_inside_unaligned: "not the start of a block" => { free(block() + 1) }
    freed_outside: "address in no arena" => { free(0x4000) }
    freed_beyond_all_memory: "address in no arena" => { free(usize::MAX - 7) }
    freed_as_another_class: "another size class" => {
        // SAFETY: the misuse is the test.
        unsafe { dealloc(place(block()), Layout::new::<[u64; 20]>()) }
    }
    freed_as_a_large_block: "with the layout of a large one" => {
        // SAFETY: the misuse is the test.
        unsafe { dealloc(place(block()), Layout::new::<[u64; 1000]>()) }
    }
    reallocated_as_a_large_block: "with the layout of a large one" => {
        // SAFETY: the misuse is the test.
        black_box(unsafe { realloc(place(block()), Layout::new::<[u64; 1000]>(), 9_000) });
    }
    reallocated_in_place_after_the_free: "block is already free" => {
        let victim = block();
        free(victim);
        // SAFETY: the misuse is the test.
        black_box(unsafe { realloc(place(victim), LAYOUT, BYTES - 1) });
    }
    written_after_the_free_and_handed_out: "a free block was written into" => {
        let victim = block();
        free(victim);
        // SAFETY: the misuse is the test.
        unsafe { place(victim).add(BYTES - 1).write_volatile(1) };
        churn(100_000);
    }
    written_in_a_magazine_and_handed_out: "a free block was written into" => {
        let victim = block();
        free(victim);
        // Out of quarantine.
        blocks(200).into_iter().for_each(free);
        // SAFETY: the misuse is the test.
        unsafe { place(victim).write_volatile(1) };
        blocks(2_000);
    }
    written_after_the_free_and_flushed: "a free block was written into" => {
        let victim = block();
        free(victim);
        // SAFETY: the misuse is the test.
        unsafe { place(victim).write_volatile(1) };
        flush_thread_cache();
    }
}

#[test]
fn the_message_names_the_block_that_was_written_into() {
    let printed = abort_of("the_message_names_the_block_that_was_written_into", || {
        let all = blocks(STAY_MIN);
        let victim = all[STAY_MIN / 2];
        all.into_iter().for_each(free);
        eprintln!("{victim:x}");
        // SAFETY: the misuse is the test.
        unsafe { place(victim).add(BYTES - 1).write_volatile(1) };
        churn(1_000);
    });
    let (victim, message) = printed.split_once('\n').expect("two lines");
    assert!(message.contains(&format!("a free block was written into (address 0x{victim},")), "{printed:?}");
}

#[test]
fn a_freed_block_waits_for_so_many_frees_before_it_is_used_again() {
    for _ in 0..50 {
        let mut others = blocks(STAY_MIN);
        let victim = block();
        free(victim);
        for _ in 1..STAY_MIN {
            free(others.pop().expect("one a round"));
            let next = block();
            assert_ne!(next, victim);
            others.insert(0, next);
        }
        others.into_iter().for_each(free);
    }
}

#[test]
fn every_freed_block_comes_out_of_quarantine_again() {
    let waiting: BTreeSet<_> = blocks(2 * STAY_MIN).into_iter().inspect(|&block| free(block)).collect();
    let mut seen = BTreeSet::new();
    // Each free lets one out; after a thousand times as many as fit, hardly any has not come out at least once.
    for _ in 0..1_000 * waiting.len() {
        let next = block();
        seen.insert(next);
        free(next);
    }
    assert!(waiting.is_subset(&seen), "{} of {}", waiting.intersection(&seen).count(), waiting.len());
}

/// Of blocks that one thread takes in a row, how many follow each other in memory: nearly all without the feature.
#[test]
fn fresh_blocks_come_in_no_order() {
    elsewhere(|| {
        let all = blocks(1_000);
        let following = all.windows(2).filter(|pair| pair[1] == pair[0] + BYTES).count();
        assert!(following < 200, "{following} of 999");
        all.into_iter().for_each(free);
    });
}

/// Two threads that do the same don't get the same: their choices differ.
#[test]
fn threads_choose_differently() {
    let offsets = || {
        let thread = thread::spawn(|| {
            let all = blocks(64);
            let first = all.iter().min().copied().expect("some");
            let offsets: Vec<_> = all.iter().map(|start| start - first).collect();
            all.into_iter().for_each(free);
            offsets
        });
        thread.join().expect("it does not panic")
    };
    let orders: BTreeSet<_> = (0..4).map(|_| offsets()).collect();
    assert!(orders.len() > 1);
}

#[cfg(unix)]
#[test]
fn a_forked_child_chooses_differently_from_its_parent_and_its_heap_is_sound() {
    const COUNT: usize = 200;
    churn(1_000);
    let mut ends = [0; 2];
    // SAFETY: room for two numbers.
    assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0);
    // SAFETY: the child only allocates, writes and ends.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let taken: [usize; COUNT] = std::array::from_fn(|_| block());
        let sound = self_check().is_ok();
        // SAFETY: as many bytes as the array has.
        unsafe {
            libc::write(ends[1], taken.as_ptr().cast(), size_of_val(&taken));
            libc::_exit(if sound { 0 } else { 1 });
        }
    }
    let taken: [usize; COUNT] = std::array::from_fn(|_| block());
    let mut theirs = [0_usize; COUNT];
    let mut status = 0;
    // SAFETY: as many bytes as the array has; our own child.
    unsafe {
        assert_eq!(
            libc::read(ends[0], theirs.as_mut_ptr().cast(), size_of_val(&theirs)),
            size_of_val(&theirs) as isize
        );
        libc::waitpid(child, &mut status, 0);
    }
    assert_eq!(status, 0);
    assert_ne!(taken, theirs);
    taken.into_iter().for_each(free);
}

#[test]
fn the_heap_is_sound_whenever_it_is_looked_at_while_blocks_leave_the_quarantine() {
    use std::sync::atomic::{AtomicBool, Ordering};

    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                blocks(100).into_iter().for_each(free);
            }
        });
        for _ in 0..2_000 {
            let sound = self_check();
            if sound.is_err() {
                stop.store(true, Ordering::Relaxed);
            }
            sound.expect("the heap is sound");
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_freed_block_is_zero_and_so_is_every_new_one() {
    let is_zero = |address: usize| {
        // SAFETY: mapped memory, in this thread's hands or (volatile) in nobody's.
        (0..BYTES).all(|index| unsafe { place(address).add(index).read_volatile() } == 0)
    };
    for round in 0..200 {
        // SAFETY: the size is not 0.
        let victim = if round % 2 == 0 { block() } else { unsafe { alloc_zeroed(LAYOUT) }.expose_provenance() };
        assert!(is_zero(victim));
        // SAFETY: ours.
        unsafe { place(victim).write_bytes(0xa5, BYTES) };
        free(victim);
        assert!(is_zero(victim));
    }
}

#[test]
fn what_waits_counts_as_cached_and_goes_home_with_the_cache() {
    elsewhere(|| {
        let cached = || {
            let caches = thread_caches();
            caches.iter().find(|cache| cache.used_by == CacheUse::Caller).expect("it allocated").blocks_cached
        };
        let all = blocks(500);
        let before = cached();
        all.into_iter().for_each(free);
        self_check().expect("the heap is sound");
        let after = cached();
        assert!(after >= before + 2 * STAY_MIN, "{before} → {after}");
        flush_thread_cache();
        // The list itself was allocated.
        let left = cached();
        assert!(left < STAY_MIN, "{left}");
        purge();
        self_check().expect("the heap is sound");
    });
}
