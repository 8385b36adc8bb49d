//! The heap as a graph while other threads allocate, block signals, end and fork; under limits.
#![cfg(all(feature = "graph", target_os = "linux"))]
#![allow(clippy::vec_box, reason = "the boxes are what is looked at")]

mod common;
mod planted;

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{channel, sync_channel};
use std::sync::{Arc, Barrier};
use std::thread;

use common::{Block, Rng, StopOnDrop, alone, or_exit};
use planted::{Hidden, on_clean_stack, take};
use pymalloc::Pymalloc;
use pymalloc::graph::{self, Config, Error, HeapGraph, Reach};
use pymalloc::trace::{self, Filter, Session};

#[global_allocator]
static GLOBAL: Pymalloc = Pymalloc::new();

const THREADS: u64 = 4;

fn start() -> Session {
    Session::start(trace::Config::new().frames(12)).expect("the tracer is off")
}

/// Leaks that the functions of these tests made.
fn own_leaks(graph: &HeapGraph) -> usize {
    let own = Filter::include().crate_name("graph_threads").expect("a pattern");
    graph.leaks().filter(&[own]).iter().map(|leak| leak.count).sum()
}

/// Holds, moves and frees blocks of all sizes, in vectors that grow, until told to stop.
#[inline(never)]
fn churn(number: u64, stop: &AtomicBool, rounds: &AtomicU64) {
    let mut rng = Rng::new(number);
    let mut held: Vec<Block> = Vec::new();
    let mut boxes: Vec<Box<[u64; 4]>> = Vec::new();
    let mut serial = number << 32;
    while !stop.load(Ordering::Relaxed) {
        serial += 1;
        if held.len() < 400 || rng.below(2) == 0 {
            held.push(Block::random(serial, &mut rng));
            boxes.push(Box::new([serial; 4]));
        } else {
            drop(held.swap_remove(rng.below(held.len())));
            drop(boxes.swap_remove(rng.below(boxes.len())));
        }
        if held.len() > 2000 {
            held = Vec::new();
            boxes = boxes.split_off(boxes.len() / 2);
        }
        rounds.fetch_add(1, Ordering::Relaxed);
    }
    black_box((held, boxes));
}

#[test]
fn threads_that_allocate_all_the_time_leak_nothing_in_any_graph() {
    alone("threads_that_allocate_all_the_time_leak_nothing_in_any_graph", || {
        let _session = start();
        let (stop, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
        thread::scope(|scope| {
            for number in 0..THREADS {
                let (stop, rounds) = (&stop, &rounds);
                scope.spawn(move || churn(number, stop, rounds));
            }
            let _stops = StopOnDrop(&stop);
            for round in 0..25 {
                let goal = rounds.load(Ordering::Relaxed) + 500;
                while rounds.load(Ordering::Relaxed) < goal {
                    thread::yield_now();
                }
                let config = if round % 5 == 4 { Config::new().in_process() } else { Config::new() };
                let graph = graph::take(config).expect("a graph");
                assert_eq!(own_leaks(&graph), 0, "round {round}: {}", graph.leaks().top(2));
                assert!(graph.threads_left().is_empty());
            }
        });
    });
}

#[test]
fn what_goes_through_channels_is_held_and_what_receivers_forget_is_not() {
    alone("what_goes_through_channels_is_held_and_what_receivers_forget_is_not", || {
        let _session = start();
        let (send, receive) = channel::<Box<[u64; 8]>>();
        let (told, tell) = sync_channel::<usize>(0);
        let (end, ended) = channel::<()>();
        let barrier = Arc::new(Barrier::new(2));
        let waiting = Arc::clone(&barrier);
        let receiver = thread::spawn(move || {
            on_clean_stack(|| {
                for number in 0..1000 {
                    let message = receive.recv().expect("a message");
                    assert_eq!(message[0], number);
                    if number % 5 == 0 {
                        told.send(!(&raw const *message).addr()).expect("the test waits");
                        std::mem::forget(message);
                    }
                }
            });
            waiting.wait();
            ended.recv().expect_err("the other end is dropped");
            receive.iter().count()
        });
        let mut hidden = Hidden::default();
        on_clean_stack(|| {
            for number in 0..1300 {
                send.send(Box::new([number; 8])).expect("somebody receives");
            }
            tell.iter().take(200).for_each(|address| hidden.note_inverted(address));
        });
        barrier.wait();
        let graph = take();
        hidden.assert_mostly_unreachable(&graph, 98);
        drop(end);
        drop(send);
        assert_eq!(receiver.join().expect("no panic"), 300);
    });
}

#[test]
fn a_thread_that_blocks_signals_is_named_and_left_if_that_is_asked_for() {
    alone("a_thread_that_blocks_signals_is_named_and_left_if_that_is_asked_for", || {
        let _session = start();
        let (send, receive) = channel();
        let (end, ended) = channel::<()>();
        let thread = thread::spawn(move || {
            // SAFETY: plain data, of which zero is a valid value; a mask of the thread's own.
            let number = unsafe {
                let mut all: libc::sigset_t = std::mem::zeroed();
                libc::sigfillset(&mut all);
                libc::pthread_sigmask(libc::SIG_BLOCK, &all, std::ptr::null_mut());
                libc::syscall(libc::SYS_gettid) as u32
            };
            let held = black_box(Box::new([1_u64; 20]));
            send.send((number, !(&raw const *held).addr())).expect("the test waits");
            ended.recv().expect_err("the other end is dropped");
            drop(held);
        });
        let (number, inverted) = receive.recv().expect("a number");
        assert_eq!(graph::take(Config::new()).err(), Some(Error::NotStopped { threads: vec![number] }));
        let graph = graph::take(Config::new().go_on_without_threads()).expect("a graph");
        assert_eq!(graph.threads_left(), [number]);
        // Its stack is memory like any other then.
        let block = graph.block_of(std::ptr::without_provenance::<u8>(!inverted)).expect("a block");
        assert_eq!(block.reach, Reach::Foreign);
        drop(end);
        thread.join().expect("no panic");
        assert!(take().threads_left().is_empty());
    });
}

/// Handlers of the program run, system calls go on, `errno` and masks stay: the signal leaves no trace.
#[test]
fn threads_come_and_go_and_sleep_while_graphs_are_taken() {
    alone("threads_come_and_go_and_sleep_while_graphs_are_taken", || {
        let _session = start();
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let stop = &stop;
            let starts = scope.spawn(move || {
                let mut started = 0;
                while !stop.load(Ordering::Relaxed) {
                    let threads: Vec<_> = (0..3).map(|number| thread::spawn(move || Box::new([number; 9]))).collect();
                    for (number, thread) in threads.into_iter().enumerate() {
                        assert_eq!(thread.join().expect("no panic")[8], number);
                        started += 1;
                    }
                }
                started
            });
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    thread::sleep(std::time::Duration::from_millis(1));
                }
            });
            {
                let _stops = StopOnDrop(stop);
                for _ in 0..20 {
                    let graph = take();
                    assert_eq!(own_leaks(&graph), 0, "{}", graph.leaks().top(2));
                }
            }
            assert!(starts.join().expect("no panic") > 0);
        });
    });
}

struct Late(Box<[u64; 6]>);

impl Drop for Late {
    /// At the thread's end, maybe after its cache is gone.
    fn drop(&mut self) {
        let graph = graph::take(Config::new()).expect("a graph");
        let block = graph.block_of(&raw const *self.0).expect("a block");
        assert_eq!(block.bytes, 48);
    }
}

#[test]
fn a_graph_can_be_taken_by_any_thread_and_in_a_forked_child() {
    alone("a_graph_can_be_taken_by_any_thread_and_in_a_forked_child", || {
        let _session = start();
        let kept = Box::new([5_u64; 6]);
        let takers: Vec<_> = (0..3).map(|_| thread::spawn(|| take().summary().rooted_blocks)).collect();
        for taker in takers {
            assert!(taker.join().expect("no panic") > 0);
        }
        // SAFETY: the child takes a graph and exits.
        match unsafe { libc::fork() } {
            0 => or_exit(|| {
                let block = take().block_of(&raw const *kept).expect("a block");
                // SAFETY: ends this process.
                unsafe { libc::_exit(if block.reach == Reach::Rooted { 0 } else { 2 }) }
            }),
            child => {
                let mut status = 0;
                // SAFETY: a child of ours.
                assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
                assert_eq!(status, 0);
            }
        }
        let ended = thread::spawn(|| {
            thread_local! {
                static LATE: std::cell::RefCell<Option<Late>> = const { std::cell::RefCell::new(None) };
            }
            LATE.set(Some(Late(Box::new([1; 6]))));
        });
        ended.join().expect("no panic");
        // No child is left that somebody would have to wait for.
        // SAFETY: asks for any child.
        assert_eq!(unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) }, -1);
    });
}

#[test]
fn at_the_limit_of_the_heap_there_is_a_graph() {
    alone("at_the_limit_of_the_heap_there_is_a_graph", || {
        let _session = start();
        let kept: Vec<Box<[u64; 5]>> = (0..20_000).map(|number| Box::new([number; 5])).collect();
        let arenas = pymalloc::stats().arenas_mapped;
        // The scan takes none of the heap; names do.
        pymalloc::set_limit(Some((arenas + 64) * pymalloc::ARENA_BYTES));
        for config in [Config::new(), Config::new().in_process()] {
            let graph = graph::take(config).expect("a graph");
            let block = graph.block_of(&raw const *kept[77]).expect("a block");
            assert_eq!(block.reach, Reach::Rooted);
        }
        pymalloc::set_limit(None);
        let sum: u64 = kept.iter().map(|boxed| boxed[0]).sum();
        assert_eq!(sum, 19_999 * 10_000);
    });
}

#[inline(never)]
fn leak() {
    std::mem::forget(black_box(Box::new([9_u64; 17])));
}

#[test]
fn a_variable_has_leaks_reported_when_the_program_exits() {
    if common::is_child() {
        return on_clean_stack(leak);
    }
    let test = "a_variable_has_leaks_reported_when_the_program_exits";
    let run = |value: &str| {
        let mut command = std::process::Command::new(std::env::current_exe().expect("an executable"));
        command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env("PYMALLOC_TEST_CHILD", "1");
        let output = command.env("PYMALLOC_LEAKS", value).output().expect("it runs");
        assert!(output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let report = run("1");
    assert!(report.contains("leaked at exit") && report.contains("graph_threads::leak"), "{report}");
    assert!(report.contains("136 B in 1 blocks, leaked with 1 block of alloc::boxed::Box"), "{report}");
    assert!(!run("0").contains("leaked at exit"));
}
