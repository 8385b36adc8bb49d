//! Misuse that a flush can find ends the process, with one line that says what it was.
#![cfg(not(pymalloc_bypass))]

mod common;

use std::alloc::{GlobalAlloc, Layout, System, alloc, dealloc};
use std::hint::black_box;
use std::thread;

use common::{abort_of, output_of_abort};
use pymalloc::{POOL_BYTES, Pymalloc, flush_thread_cache, purge};

#[global_allocator]
static GLOBAL: Pymalloc = Pymalloc::new();

/// Nothing else in these programs has blocks of these sizes. (A thread's start allocates, too, and might get the block
/// that is to be freed again.)
const VICTIM: Layout = Layout::new::<[u64; 50]>();
const OTHER_CLASS: Layout = Layout::new::<[u64; 58]>();

/// Runs `misuse` in a process of its own, which must abort, with `message` as its only output.
fn aborts(test: &str, message: &str, misuse: fn()) {
    let printed = abort_of(test, misuse);
    assert_eq!(printed.matches('\n').count(), 1, "one line: {printed:?}");
    assert!(printed.ends_with('\n'), "{printed:?}");
    assert!(printed.starts_with("pymalloc: "), "{printed:?}");
    assert!(printed.contains(message), "{printed:?} does not say {message:?}");
}

/// A test whose child does the misuse of the body. `$message` is a part of its last line.
macro_rules! misuses {
    ($($name:ident: $message:literal => $body:block)+) => { $(
        #[test]
        fn $name() {
            aborts(stringify!($name), $message, || $body);
        }
    )+ };
}

/// The address of a block, as a number, so that it can be sent to other threads.
fn block(layout: Layout) -> usize {
    // SAFETY: the size is not 0.
    black_box(unsafe { alloc(layout) }).expose_provenance()
}

/// Frees a block that may not be freed.
fn free(address: usize, layout: Layout) {
    let start = std::ptr::with_exposed_provenance_mut(address);
    // SAFETY: none in most cases. The misuse is the test: the allocator has to stop the process at the next flush, and
    // this process has nothing to lose.
    unsafe { dealloc(black_box(start), layout) };
}

fn free_and_flush(address: usize, layout: Layout) {
    free(address, layout);
    flush_thread_cache();
}

fn free_and_flush_elsewhere(address: usize, layout: Layout) {
    thread::spawn(move || free_and_flush(address, layout)).join().expect("it does not panic");
}

/// A block for misuse. Another block of its pool stays live, so that the pool keeps its class whatever happens to this
/// block.
fn victim(layout: Layout) -> usize {
    block(layout);
    block(layout)
}

misuses! {
    double_free: "block is already free" => {
        let address = victim(VICTIM);
        free(address, VICTIM);
        free_and_flush(address, VICTIM);
    }

    double_free_with_others_between: "block is already free" => {
        let others: [usize; 20] = std::array::from_fn(|_| block(VICTIM));
        let address = victim(VICTIM);
        free(address, VICTIM);
        for other in others {
            free(other, VICTIM);
        }
        free_and_flush(address, VICTIM);
    }

    double_free_after_a_flush: "block is already free" => {
        let address = victim(VICTIM);
        free_and_flush(address, VICTIM);
        free_and_flush(address, VICTIM);
    }

    double_free_here_then_in_another_thread: "block is already free" => {
        let address = victim(VICTIM);
        free_and_flush(address, VICTIM);
        free_and_flush_elsewhere(address, VICTIM);
        // Found at the latest when the owner collects remote frees.
        purge();
    }

    double_free_in_another_thread_then_here: "block is already free" => {
        let address = victim(VICTIM);
        free_and_flush_elsewhere(address, VICTIM);
        free_and_flush(address, VICTIM);
        purge();
    }

    double_free_in_two_other_threads: "block is already free" => {
        let address = victim(VICTIM);
        free_and_flush_elsewhere(address, VICTIM);
        free_and_flush_elsewhere(address, VICTIM);
        purge();
    }

    layout_of_another_class: "block of another size class" => {
        free_and_flush(victim(VICTIM), OTHER_CLASS);
    }

    layout_of_another_class_in_another_thread: "block of another size class" => {
        free_and_flush_elsewhere(victim(OTHER_CLASS), VICTIM);
    }

    layout_of_another_class_that_would_have_a_block_there_in_another_thread: "block of another size class" => {
        let blocks: [usize; 80] = std::array::from_fn(|_| block(OTHER_CLASS));
        let starts_one = |address: &usize| (address % POOL_BYTES).is_multiple_of(VICTIM.size());
        let address = blocks.into_iter().find(starts_one).expect("one in 25 blocks does");
        free_and_flush_elsewhere(address, VICTIM);
    }

    inside_a_block: "not the start of a block" => {
        free_and_flush(victim(VICTIM) + 8, VICTIM);
    }

    inside_a_block_in_another_thread: "not the start of a block" => {
        free_and_flush_elsewhere(victim(VICTIM) + 8, VICTIM);
    }

    a_static: "address in no arena" => {
        static NOT_OURS: [u64; 8] = [0; 8];
        free_and_flush((&raw const NOT_OURS).expose_provenance(), VICTIM);
    }

    a_block_of_the_system: "address in no arena" => {
        // SAFETY: the size is not 0.
        let address = unsafe { System.alloc(VICTIM) }.expose_provenance();
        free_and_flush(address, VICTIM);
    }

    a_variable_on_the_stack: "address in no arena" => {
        let variable = [0_u64; 8];
        free_and_flush((&raw const variable).expose_provenance(), VICTIM);
    }

    an_address_that_is_not_mapped: "address in no arena" => {
        free_and_flush(0x4000, VICTIM);
    }
}

/// Frees a block twice by `free`, with many others in its pool, and checks that the message has its address.
fn names_the_block(test: &str, misuse: fn()) {
    let output = output_of_abort(test, misuse);
    let (told, message) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let victim = told.lines().find_map(|line| line.split_once("victim ")).expect("the child says it").1;
    let expected =
        format!("pymalloc: double free: block is already free (address {victim}, size class of 304 bytes)\n");
    assert_eq!(message, expected);
}

/// A layout of a class that nothing else in these programs uses, as for `VICTIM`. A pool has more of these blocks than
/// a word has bits.
const ONE_OF_MANY: Layout = Layout::new::<[u64; 38]>();

/// Allocates a block, as a rule beyond its pool's first bitmap word, and prints its address.
fn told_victim() -> usize {
    let blocks: [usize; 300] = std::array::from_fn(|_| block(ONE_OF_MANY));
    println!("\nvictim {:#x}", blocks[100]);
    blocks[100]
}

#[test]
fn the_message_of_a_double_free_has_the_blocks_address() {
    names_the_block("the_message_of_a_double_free_has_the_blocks_address", || {
        let address = told_victim();
        free_and_flush(address, ONE_OF_MANY);
        free_and_flush(address, ONE_OF_MANY);
    });
}

#[test]
fn the_message_of_a_double_free_in_another_thread_has_the_blocks_address() {
    names_the_block("the_message_of_a_double_free_in_another_thread_has_the_blocks_address", || {
        let address = told_victim();
        free_and_flush_elsewhere(address, ONE_OF_MANY);
        free_and_flush_elsewhere(address, ONE_OF_MANY);
        purge();
    });
}

#[test]
fn the_message_of_a_double_free_among_neighbours_has_the_blocks_address() {
    names_the_block("the_message_of_a_double_free_among_neighbours_has_the_blocks_address", || {
        let mut blocks: [usize; 300] = std::array::from_fn(|_| block(ONE_OF_MANY));
        blocks.sort_unstable();
        // The 21st block of a pool, and those behind it in the same bitmap word.
        let is_first = |address: &usize| address % POOL_BYTES / ONE_OF_MANY.size() == 20;
        let first = blocks.iter().position(is_first).expect("more than a pool's blocks");
        let neighbours = &blocks[first..first + 5];
        println!("\nvictim {:#x}", neighbours[3]);
        neighbours.iter().for_each(|&address| free(address, ONE_OF_MANY));
        free_and_flush(neighbours[3], ONE_OF_MANY);
    });
}
