//! The tracer while other threads allocate, start, end and fork.
#![cfg(all(feature = "trace", not(windows)))]
#![allow(clippy::vec_box, reason = "the boxes are what is traced")]

mod common;

use std::cell::RefCell;
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;

use common::{Block, Rng, alone, assert_sound, watchdog, watchdog_off};
use pymalloc::Pymalloc;
use pymalloc::trace::{self, By, Config, Filter, Snapshot, TracedMemory};

#[global_allocator]
static GLOBAL: Pymalloc = Pymalloc::new();

const THREADS: u64 = 4;

/// What `churn` holds, whatever the test harness and the standard library do.
fn churned(snapshot: &Snapshot) -> Snapshot {
    let churn = Filter::include().function("trace_threads::churn*").expect("a pattern");
    snapshot.filter(&[churn.all_frames()])
}

type Batch = Vec<Block>;

/// Allocates and frees its own blocks and its neighbour's, until told to stop.
#[inline(never)]
fn churn(number: u64, stop: &AtomicBool, inbox: &Receiver<Batch>, outbox: &SyncSender<Batch>, rounds: &AtomicU64) {
    let mut rng = Rng::new(number);
    let mut mine = Vec::new();
    let mut serial = number << 32;
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..100 {
            serial += 1;
            if mine.len() < 300 || rng.below(2) == 0 {
                mine.push(Block::random(serial, &mut rng));
            } else {
                drop(mine.swap_remove(rng.below(mine.len())));
            }
        }
        drop(inbox.try_recv());
        let batch = mine.split_off(mine.len() / 2);
        if let Err(full) = outbox.try_send(batch) {
            let (std::sync::mpsc::TrySendError::Full(batch) | std::sync::mpsc::TrySendError::Disconnected(batch)) =
                full;
            mine.extend(batch);
        }
        rounds.fetch_add(1, Ordering::Relaxed);
    }
}

/// Threads that churn in a ring.
struct Churn {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Churn {
    fn start() -> Self {
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (mut outboxes, mut inboxes): (Vec<_>, Vec<_>) = (0..THREADS).map(|_| sync_channel(4)).unzip();
        outboxes.rotate_left(1);
        let threads = (0..THREADS).zip(outboxes.into_iter().zip(inboxes.drain(..))).map(|(number, (outbox, inbox))| {
            let (stop, rounds) = (Arc::clone(&stop), Arc::clone(&rounds));
            thread::spawn(move || churn(number, &stop, &inbox, &outbox, &rounds))
        });
        Self { threads: threads.collect(), stop, rounds }
    }

    /// Waits until every thread has done something, as a rule: the sum of their rounds has grown by so many.
    fn wait(&self, rounds: u64) {
        let goal = self.rounds.load(Ordering::Relaxed) + rounds;
        while self.rounds.load(Ordering::Relaxed) < goal {
            thread::yield_now();
        }
    }

    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("no block was overwritten");
        }
    }
}

#[test]
fn every_free_of_a_traced_block_is_seen_when_tracing_starts_amid_threads() {
    alone("every_free_of_a_traced_block_is_seen_when_tracing_starts_amid_threads", || {
        watchdog();
        for config in [Config::new().frames(6), Config::new().frames(6).sample_every(500)] {
            for _ in 0..10 {
                let churn = Churn::start();
                churn.wait(20);
                trace::start(config).expect("starts");
                churn.wait(40);
                let amid = churned(&trace::take_snapshot().expect("tracing"));
                churn.end();
                let after = churned(&trace::take_snapshot().expect("tracing"));
                trace::stop();
                assert!(amid.blocks() > 0, "blocks were alive amid it");
                assert_eq!(after.blocks(), 0, "all blocks were freed:\n{}", after.statistics(By::Traceback));
                assert_eq!(trace::overhead_bytes(), 0);
            }
        }
        assert_sound();
        watchdog_off();
    });
}

#[test]
fn sessions_and_snapshots_begin_and_end_while_threads_allocate() {
    alone("sessions_and_snapshots_begin_and_end_while_threads_allocate", || {
        watchdog();
        let churn = Churn::start();
        for round in 0..60_usize {
            let config = Config::new().frames(1 + round % 8);
            trace::start(if round % 2 == 0 { config } else { config.sample_every(1000) }).expect("starts");
            churn.wait(4);
            match round % 4 {
                0 => trace::clear(),
                1 => drop(trace::take_snapshot().expect("tracing")),
                2 => trace::reset_peak(),
                _ => {}
            }
            assert!(trace::traced_memory().bytes_peak >= trace::traced_memory().bytes_live.min(1));
            trace::stop();
        }
        // Several threads control the tracer at once.
        thread::scope(|scope| {
            for number in 0..4 {
                scope.spawn(move || {
                    for _ in 0..30 {
                        match number {
                            0 => drop(trace::start(Config::new().frames(2))),
                            1 => trace::stop(),
                            2 => drop(trace::take_snapshot()),
                            _ => drop(trace::traceback_of(&raw const *black_box(Box::new(1)))),
                        }
                    }
                });
            }
        });
        trace::stop();
        churn.end();
        assert_eq!((trace::traced_memory(), trace::overhead_bytes()), (TracedMemory::default(), 0));
        assert_sound();
        watchdog_off();
    });
}

struct OnEnd(RefCell<Vec<Box<[u8; 24]>>>);

impl Drop for OnEnd {
    fn drop(&mut self) {
        self.0.borrow_mut().clear();
        // A destructor of a thread-local allocates, too.
        LEFT.lock().expect("no panic").push(churn_left());
    }
}

#[inline(never)]
fn churn_left() -> Box<[u8; 40]> {
    Box::new([9; 40])
}

static LEFT: Mutex<Vec<Box<[u8; 40]>>> = Mutex::new(Vec::new());

thread_local! {
    static ON_END: OnEnd = const { OnEnd(RefCell::new(Vec::new())) };
}

#[test]
fn blocks_of_threads_that_ended_stay_known_until_others_free_them() {
    alone("blocks_of_threads_that_ended_stay_known_until_others_free_them", || {
        watchdog();
        trace::start(Config::new()).expect("starts");
        let left = |block_bytes| {
            let snapshot = trace::take_snapshot().expect("tracing");
            let traces = snapshot.traces().filter(|trace| trace.block_bytes == block_bytes);
            traces
                .filter(|trace| trace.traceback.cause().file().ends_with("trace_threads.rs"))
                .map(|trace| trace.blocks)
                .sum::<usize>()
        };
        let threads: Vec<_> = (0..50)
            .map(|_| {
                thread::spawn(|| {
                    ON_END.with(|on_end| on_end.0.borrow_mut().extend((0..20).map(|_| Box::new([1; 24]))));
                    (0..10).map(|_| Box::new([2; 56])).collect::<Vec<Box<[u8; 56]>>>()
                })
            })
            .collect();
        let kept: Vec<_> = threads.into_iter().map(|thread| thread.join().expect("no panic")).collect();
        assert_eq!((left(24), left(40), left(56)), (0, 50, 500));
        thread::spawn(move || drop(kept)).join().expect("no panic");
        LEFT.lock().expect("no panic").clear();
        assert_eq!((left(24), left(40), left(56)), (0, 0, 0));
        trace::stop();
        assert_sound();
        watchdog_off();
    });
}

/// Forks, runs `child` there, and returns what the child exits with: 0 if `child` does not panic.
fn in_child(child: impl FnOnce() + std::panic::UnwindSafe) -> i32 {
    // SAFETY: the heap and the tracer have fork handlers; the child ends by `_exit`.
    unsafe {
        match libc::fork() {
            -1 => panic!("no process: {}", std::io::Error::last_os_error()),
            0 => {
                // A child that hangs is ended by the signal.
                libc::alarm(120);
                let code = i32::from(std::panic::catch_unwind(child).is_err());
                libc::_exit(code)
            }
            pid => {
                let mut status = 0;
                assert_eq!(libc::waitpid(pid, &mut status, 0), pid);
                status
            }
        }
    }
}

#[test]
fn a_forked_child_goes_on_tracing_while_its_parents_threads_allocate_and_take_snapshots() {
    alone("a_forked_child_goes_on_tracing_while_its_parents_threads_allocate_and_take_snapshots", || {
        watchdog();
        trace::start(Config::new().frames(8)).expect("starts");
        let churn = Churn::start();
        let (stop, ready) = (Arc::new(AtomicBool::new(false)), Arc::new(Barrier::new(2)));
        let reader = {
            let (stop, ready) = (Arc::clone(&stop), Arc::clone(&ready));
            thread::spawn(move || {
                ready.wait();
                while !stop.load(Ordering::Relaxed) {
                    drop(trace::take_snapshot());
                }
            })
        };
        ready.wait();
        let known = black_box(Box::new([3_u8; 77]));
        for round in 0..12 {
            let status = in_child(|| {
                assert!(trace::is_tracing());
                let of_parent = trace::traceback_of(&raw const *known).expect("what the parent had is known");
                assert!(of_parent.cause().file().ends_with("trace_threads.rs"), "{of_parent}");
                let own = black_box(vec![4_u8; 1234]);
                let snapshot = trace::take_snapshot().expect("tracing");
                assert!(snapshot.traces().any(|trace| trace.block_bytes == 1234), "what the child allocates, too");
                drop(own);
                let more = Churn::start();
                more.wait(4);
                more.end();
                trace::stop();
                assert_eq!((trace::traced_memory(), trace::overhead_bytes()), (TracedMemory::default(), 0));
                trace::start(Config::new()).expect("starts again");
                assert_sound();
            });
            assert_eq!(status, 0, "the child of round {round} failed");
        }
        stop.store(true, Ordering::Relaxed);
        reader.join().expect("no panic");
        churn.end();
        assert_eq!(churned(&trace::take_snapshot().expect("tracing")).blocks(), 0);
        drop(known);
        trace::stop();
        watchdog_off();
    });
}
