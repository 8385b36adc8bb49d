//! The same work in one thread, or shared out among several.

use std::thread;

/// Does all `rounds` in `THREADS` threads, or in the caller's if it is one, and adds up what they return.
pub fn share_out<const THREADS: usize>(rounds: usize, round: impl Fn(usize) -> u64 + Sync) -> u64 {
    if THREADS == 1 {
        return (0..rounds).map(round).sum();
    }
    let of_lane = |lane| (lane..rounds).step_by(THREADS).map(&round).sum::<u64>();
    let of_lane = &of_lane;
    thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|lane| scope.spawn(move || of_lane(lane))).collect();
        threads.into_iter().map(|thread| thread.join().expect("all rounds")).sum()
    })
}
