//! Graphs of the heap beside threads that block signals, beside the allocator's own, and with many mappings.
#![cfg(all(feature = "graph", target_os = "linux"))]

mod common;
mod planted;

use std::cell::RefCell;
use std::hint::black_box;
use std::ptr;
use std::rc::Rc;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use common::StopOnDrop;
use planted::{Hidden, on_clean_stack, take, traced};
use pymalloc::graph::{self, Config};
use pymalloc::{Pymalloc, trace};

#[global_allocator]
static GLOBAL: Pymalloc = Pymalloc::new();

/// Leaks circles of two.
#[inline(never)]
fn leak_circles(hidden: &mut Hidden) {
    struct Link(RefCell<Option<Rc<Link>>>);
    for _ in 0..500 {
        let first = Rc::new(Link(RefCell::new(None)));
        let second = Rc::new(Link(RefCell::new(Some(Rc::clone(&first)))));
        hidden.note(&*first);
        hidden.note(&*second);
        *first.0.borrow_mut() = Some(second);
    }
}

/// Runs `body` with all signals blocked for the calling thread.
fn with_signals_blocked(body: impl FnOnce()) {
    // SAFETY: plain data, of which zero is a valid value; a mask of the thread's own.
    unsafe {
        let (mut all, mut before): (libc::sigset_t, libc::sigset_t) = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_BLOCK, &all, &mut before);
        body();
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, ptr::null_mut());
    }
}

/// Runs `body` while threads do `work` again and again.
fn beside(threads: usize, work: impl Fn() + Sync, body: impl FnOnce()) {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    work();
                }
            });
        }
        let _stops = StopOnDrop(&stop);
        body();
    });
}

/// Four rounds of five are in a copy, the fifth is in the process itself.
fn config(round: usize) -> Config {
    if round % 5 == 4 { Config::new().in_process() } else { Config::new() }
}

/// Each of them waits for locks that the one before it holds, and has to be stopped there.
#[test]
fn many_threads_take_graphs_at_once() {
    traced("many_threads_take_graphs_at_once", || {
        let mut hidden = Hidden::default();
        on_clean_stack(|| leak_circles(&mut hidden));
        let barrier = Barrier::new(5);
        thread::scope(|scope| {
            for number in 0..5 {
                let (barrier, hidden) = (&barrier, &hidden);
                scope.spawn(move || {
                    barrier.wait();
                    for _ in 0..3 {
                        let graph = graph::take(config(number)).expect("a graph");
                        hidden.assert_mostly_unreachable(&graph, 99);
                    }
                });
            }
        });
    });
}

#[test]
fn graphs_are_taken_beside_the_allocators_own_threads() {
    traced("graphs_are_taken_beside_the_allocators_own_threads", || {
        let mut hidden = Hidden::default();
        on_clean_stack(|| leak_circles(&mut hidden));
        let file = |name: &str| std::env::temp_dir().join(format!("pymalloc-graph-{}.{name}", std::process::id()));
        let every = Duration::from_millis(1);
        let purge = pymalloc::PurgeThread::start(pymalloc::PurgeConfig::new().interval(every)).expect("a thread");
        let timeline = trace::TimelineConfig::new().interval(every);
        let timeline = trace::Timeline::start(file("timeline"), timeline).expect("a thread");
        let server = trace::serve(file("socket")).expect("a socket");
        // Holds and frees, so that there is something to purge and to sample.
        let work = || drop(black_box((0..2000).map(|number| Box::new([number; 9])).collect::<Vec<_>>()));
        beside(1, work, || {
            for round in 0..10 {
                let graph = graph::take(config(round)).expect("a graph");
                assert_eq!(graph.threads_left(), []);
                hidden.assert_mostly_unreachable(&graph, 99);
            }
        });
        timeline.stop().expect("a whole timeline");
        drop(server);
        purge.stop();
        std::fs::remove_file(file("timeline")).expect("a file");
    });
}

/// A thread that blocks signals for a moment may wait for one of the allocator's locks in that moment.
#[test]
fn threads_that_allocate_with_signals_blocked_are_stopped_between() {
    traced("threads_that_allocate_with_signals_blocked_are_stopped_between", || {
        let work = || {
            with_signals_blocked(|| {
                black_box((0..200).map(|number| Box::new([number; 5])).collect::<Vec<_>>());
            });
            // The signal is unblocked for a while: an attempt succeeds only if no thread blocks it.
            thread::sleep(Duration::from_micros(500));
        };
        beside(2, work, || {
            for round in 0..10 {
                graph::take(config(round)).expect("a graph");
            }
        });
    });
}

#[test]
fn a_thread_that_blocks_signals_for_long_times_is_waited_for() {
    traced("a_thread_that_blocks_signals_for_long_times_is_waited_for", || {
        let work = || {
            with_signals_blocked(|| thread::sleep(Duration::from_millis(150)));
            thread::sleep(Duration::from_millis(20));
        };
        beside(1, work, || {
            for _ in 0..3 {
                let graph = take();
                assert!(graph.pause() < Duration::from_secs(1), "the program stood for {:?}", graph.pause());
            }
        });
    });
}

/// A program may wait for a real-time signal that it blocks, and for which it has no handler.
#[test]
fn a_signal_that_the_program_waits_for_stays_pending() {
    traced("a_signal_that_the_program_waits_for_stays_pending", || {
        let signal = libc::SIGRTMAX();
        // SAFETY: plain data, of which zero is a valid value; a mask of the thread's own, and a signal to itself.
        let awaited = unsafe {
            let mut awaited: libc::sigset_t = std::mem::zeroed();
            libc::sigaddset(&mut awaited, signal);
            libc::pthread_sigmask(libc::SIG_BLOCK, &awaited, ptr::null_mut());
            libc::pthread_kill(libc::pthread_self(), signal);
            awaited
        };
        take();
        let at_once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: a set and a time to read.
        assert_eq!(unsafe { libc::sigtimedwait(&awaited, ptr::null_mut(), &at_once) }, signal);
    });
}

/// While a thread waits for signals, the kernel does not count them as blocked.
#[test]
fn a_thread_that_waits_for_all_signals_gets_none_that_nobody_sent() {
    traced("a_thread_that_waits_for_all_signals_gets_none_that_nobody_sent", || {
        let (send, receive) = std::sync::mpsc::channel();
        let waits = thread::spawn(move || {
            with_signals_blocked(|| {
                // SAFETY: plain data, of which zero is a valid value, and a number to write.
                unsafe {
                    let mut all: libc::sigset_t = std::mem::zeroed();
                    libc::sigfillset(&mut all);
                    send.send((libc::pthread_self(), libc::gettid())).expect("the test waits");
                    let mut signal = 0;
                    assert_eq!(libc::sigwait(&all, &mut signal), 0);
                    assert_eq!(signal, libc::SIGUSR1);
                }
            });
        });
        let (handle, number) = receive.recv().expect("a number");
        thread::sleep(Duration::from_millis(50));
        let graph = graph::take(Config::new().go_on_without_threads()).expect("a graph");
        assert_eq!(graph.threads_left(), [number as u32]);
        assert!(graph.pause() < Duration::from_millis(500), "the program stood for {:?}", graph.pause());
        let short = Config::new().patience(Duration::from_millis(50));
        assert_eq!(graph::take(short).err(), Some(graph::Error::NotStopped { threads: vec![number as u32] }));
        // SAFETY: a thread that runs.
        unsafe { libc::pthread_kill(handle, libc::SIGUSR1) };
        waits.join().expect("no panic");
        graph::take(Config::new().patience(Duration::MAX)).expect("a graph");
    });
}

/// Daemons block signals before they start threads.
#[test]
fn the_allocators_own_threads_can_be_stopped_if_signals_are_blocked_where_they_are_started() {
    traced("the_allocators_own_threads_can_be_stopped_if_signals_are_blocked_where_they_are_started", || {
        let mut purge = None;
        with_signals_blocked(|| {
            purge = pymalloc::PurgeThread::start(pymalloc::PurgeConfig::new()).ok();
        });
        let purge = purge.expect("a thread");
        assert_eq!(take().threads_left(), []);
        purge.stop();
    });
}

/// The array of mappings grows while they are read.
#[test]
fn a_process_with_many_mappings_has_graphs() {
    traced("a_process_with_many_mappings_has_graphs", || {
        let mut hidden = Hidden::default();
        on_clean_stack(|| leak_circles(&mut hidden));
        for count in [90, 40, 130, 300] {
            for number in 0..2 * count {
                let access = if number % 2 == 0 { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_READ };
                let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
                // SAFETY: new memory, which nobody else has.
                assert_ne!(unsafe { libc::mmap(ptr::null_mut(), 4096, access, flags, -1, 0) }, libc::MAP_FAILED);
            }
            for round in [0, 4] {
                let graph = graph::take(config(round)).expect("a graph");
                hidden.assert_mostly_unreachable(&graph, 99);
            }
        }
    });
}
