//! Several threads: blocks that move between them, threads that come and go.

use crate::block::{Block, Chain};
use crate::measure::{Outcome, measure};
use crate::random::Random;
use crate::workloads::loops::{fill, replace_random};
use crate::workloads::scaling::replace_in_threads;
use peers::params::{
    CHAIN_BLOCKS, CHANNEL_MESSAGES, FORK_LEAF_BLOCKS, FORK_LEVELS, FORK_ROUNDS, HAND_OVER_BLOCKS,
    HAND_OVER_GENERATIONS, HAND_OVER_PAIRS, MESSAGES, MIXED_4_BLOCKS, MIXED_4_PAIRS, MIXED_BYTES,
    POOL_JOBS, POOL_RESULT_BLOCKS, SEED, SHARING_PAIRS, SHARING_WRITES, START_STOP_PROGRAMS,
    STORM_ALIVE, STORM_BLOCKS, STORM_THREADS, Scale, THREADS,
};
use std::process::Command;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Barrier, Mutex};
use std::{env, thread};

/// After larson: each of four lanes is a line of threads, one at a time; a thread replaces random
/// blocks among those that its predecessor left, and leaves them to its successor.
pub fn hand_over(scale: Scale) -> Outcome {
    let generations = scale.of(HAND_OVER_GENERATIONS);
    let lane = move |number: usize| {
        let mut random = Random::new(SEED + number as u64);
        let mut blocks = fill(&mut random, &MIXED_BYTES, HAND_OVER_BLOCKS);
        let mut sum = 0;
        for _ in 0..generations {
            let generation = thread::spawn(move || {
                let sum = replace_random(&mut random, &MIXED_BYTES, &mut blocks, HAND_OVER_PAIRS);
                (sum, random, blocks)
            });
            let part;
            (part, random, blocks) = generation.join().expect("a generation");
            sum += part;
        }
        sum
    };
    measure(THREADS * generations * HAND_OVER_PAIRS, || sum_of_threads(THREADS, lane))
}

/// Runs `work` in `count` threads, numbered, and adds up what they return.
fn sum_of_threads(count: usize, work: impl Fn(usize) -> u64 + Copy + Send) -> u64 {
    thread::scope(|scope| {
        let threads: Vec<_> = (0..count).map(|number| scope.spawn(move || work(number))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a thread of the workload")).sum()
    })
}

/// A bounded channel of `std` allocates nothing a message: all requests are the chains'.
type Channel = (SyncSender<Chain>, Receiver<Chain>);

fn channel() -> Channel {
    sync_channel(CHANNEL_MESSAGES)
}

/// One of the two is 1. Each consumer has its channel; producers go round the consumers.
pub fn producer_consumer<const PRODUCERS: usize, const CONSUMERS: usize>(scale: Scale) -> Outcome {
    let messages = scale.of(MESSAGES) / PRODUCERS;
    measure(PRODUCERS * messages * CHAIN_BLOCKS, || {
        thread::scope(|scope| {
            let (senders, consumers): (Vec<_>, Vec<_>) = (0..CONSUMERS)
                .map(|_| {
                    let (sender, receiver) = channel();
                    let consume = move || receiver.into_iter().map(Chain::consume).sum::<u64>();
                    (sender, scope.spawn(consume))
                })
                .unzip();
            for _ in 0..PRODUCERS {
                let senders = senders.clone();
                scope.spawn(move || {
                    for sender in senders.iter().cycle().take(messages) {
                        sender.send(Chain::new(CHAIN_BLOCKS)).expect("the consumer listens");
                    }
                });
            }
            // The consumers end when the last sender is gone.
            drop(senders);
            consumers.into_iter().map(|consumer| consumer.join().expect("a consumer")).sum()
        })
    })
}

pub fn exchange(scale: Scale) -> Outcome {
    let messages = scale.of(MESSAGES) / 2;
    // Each side sends one and takes one in turn, so a channel never fills up.
    let side = move |out: SyncSender<Chain>, back: Receiver<Chain>| {
        let mut sum = 0;
        for _ in 0..messages {
            out.send(Chain::new(CHAIN_BLOCKS)).expect("the other side listens");
            sum += back.recv().map_or(0, Chain::consume);
        }
        sum
    };
    measure(2 * messages * CHAIN_BLOCKS, || {
        let ((out, far_back), (far_out, back)) = (channel(), channel());
        thread::scope(|scope| {
            let far = scope.spawn(move || side(far_out, far_back));
            side(out, back) + far.join().expect("the other side")
        })
    })
}

/// Each thread writes to a block of 8 bytes many times. Slow where the allocator puts blocks of
/// different threads into one cache line. `PASSIVE`: each thread first frees a block that one
/// thread allocated for all, after which a bad allocator would share its line out again.
pub fn false_sharing<const PASSIVE: bool>(scale: Scale) -> Outcome {
    let pairs = scale.of(SHARING_PAIRS);
    let together = Barrier::new(THREADS);
    let work = |given: Option<Block>| {
        together.wait();
        drop(given);
        let mut sum = 0;
        for _ in 0..pairs {
            let block = Block::new(8);
            for _ in 0..SHARING_WRITES {
                // SAFETY: the block has 8 bytes and is ours; volatile, so that each is written.
                unsafe { block.as_ptr().write_volatile(block.as_ptr().read_volatile() ^ 1) };
            }
            sum += block.first_byte();
        }
        sum
    };
    measure(THREADS * pairs, || {
        let gifts: Vec<_> = (0..THREADS).map(|_| PASSIVE.then(|| Block::new(8))).collect();
        thread::scope(|scope| {
            let threads: Vec<_> =
                gifts.into_iter().map(|gift| scope.spawn(|| work(gift))).collect();
            threads.into_iter().map(|thread| thread.join().expect("sharing")).sum()
        })
    })
}

/// Threads that live for a few hundred requests: the cost of a thread's first and last one.
pub fn thread_storm(scale: Scale) -> Outcome {
    let rounds = scale.of(STORM_THREADS) / STORM_ALIVE;
    let work = |number: usize| {
        let mut random = Random::new(SEED + number as u64);
        fill(&mut random, &MIXED_BYTES, STORM_BLOCKS).iter().map(Block::first_byte).sum()
    };
    measure(rounds * STORM_ALIVE, || (0..rounds).map(|_| sum_of_threads(STORM_ALIVE, work)).sum())
}

/// Workers build results, the caller reads and frees them.
pub fn pool_results(scale: Scale) -> Outcome {
    let jobs = scale.of(POOL_JOBS);
    let (job_sender, job_receiver) = sync_channel::<usize>(CHANNEL_MESSAGES);
    let job_receiver = Mutex::new(job_receiver);
    let (result_sender, results) = channel();
    measure(jobs * POOL_RESULT_BLOCKS, || {
        thread::scope(|scope| {
            for _ in 0..THREADS {
                let (jobs, results) = (&job_receiver, result_sender.clone());
                scope.spawn(move || {
                    // The lock is held for the taking only, not for the work.
                    let next = || jobs.lock().expect("no worker panics").recv();
                    while let Ok(job) = next() {
                        let mut result = Chain::new(POOL_RESULT_BLOCKS);
                        result.push(job as u64);
                        results.send(result).expect("the caller listens");
                    }
                });
            }
            drop(result_sender);
            scope.spawn(move || {
                for job in 0..jobs {
                    job_sender.send(job).expect("the workers listen");
                }
            });
            results.into_iter().map(Chain::consume).sum()
        })
    })
}

/// Halves the work until eight threads have a leaf each; what they build is freed by those that
/// join them.
pub fn fork_join(scale: Scale) -> Outcome {
    fn build(levels: usize) -> Vec<Chain> {
        if levels == 0 {
            return vec![Chain::new(FORK_LEAF_BLOCKS)];
        }
        thread::scope(|scope| {
            let other = scope.spawn(|| build(levels - 1));
            let mut chains = build(levels - 1);
            chains.extend(other.join().expect("the other half"));
            chains
        })
    }
    let rounds = scale.of(FORK_ROUNDS);
    measure((rounds << FORK_LEVELS) * FORK_LEAF_BLOCKS, || {
        (0..rounds).flat_map(|_| build(FORK_LEVELS)).map(Chain::consume).sum()
    })
}

pub fn mixed_4(scale: Scale) -> Outcome {
    let pairs = scale.of(MIXED_4_PAIRS);
    measure(THREADS * pairs, || replace_in_threads(THREADS, MIXED_4_BLOCKS, pairs))
}

/// This program again and again, to end at once: what an allocator costs a program that does
/// not need it. RSS is the largest of these programs'.
pub fn start_stop(scale: Scale) -> Outcome {
    let programs = scale.of(START_STOP_PROGRAMS);
    let this_program = env::current_exe().expect("a running program has a path");
    let mut peak_rss = 0;
    let outcome = measure(programs, || {
        for _ in 0..programs {
            let output = Command::new(&this_program).arg(crate::NOTHING).output();
            let output = output.expect("this program can be started again");
            let rss = String::from_utf8_lossy(&output.stdout).trim().parse::<u64>();
            peak_rss = peak_rss.max(rss.expect("it prints its peak RSS"));
        }
        programs as u64
    });
    outcome.with_peak_rss(peak_rss)
}
