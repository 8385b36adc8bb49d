//! Stops the other threads of the process, each by a signal that carries a number.
//!
//! # Protocol
//! The caller holds all locks of the crate, as a fork does. So no thread is stopped while it holds one, and there is no
//! second caller. The caller then reads the list of threads, again and again, until it finds no new thread. Each new
//! thread gets a signal whose number names a summons and its call (`protocols/summons.rs`). The handler arrives at the
//! summons and sleeps there; the registers that the kernel saved lie above it on the thread's stack. A thread that ends
//! meanwhile leaves the list.
//!
//! A thread may block signals for a moment, and may wait for one of the locks meanwhile. So the caller first looks for
//! threads that block the signal, while all run. If it finds one afterwards, or if one does not arrive in a while, it
//! lets all go on and begins anew. In the last attempt, such a thread is *left*: its call is abandoned, so that it
//! touches nothing if it arrives later. If the graph may be taken without some threads, those that were found to block
//! the signal at first are not called at all.
//!
//! # Signal safety
//! The handler allocates nothing, takes no lock and reads no thread-local with a destructor. All other signals are
//! blocked while it runs, and it keeps `errno`. It may have interrupted anything, for example the C library's `malloc`
//! with its lock held. So until the threads go on, the caller allocates nothing, and calls no function of the C library
//! that takes a lock.
//!
//! # Invariants
//! - *For ever*: summonses are never unmapped. A handler that arrives late can still read its word.

use core::ffi::c_int;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::os::tasks::{self, Interrupted, Task};
use crate::os::{self, MemorySource, SystemMemory};
use crate::protocols::summons::{Call, Summons};
use crate::trace::access::Mapped;

/// The number of summonses in the first chunk; each further chunk has twice as many as the one before.
const FIRST_CHUNK: usize = 64;
const CHUNKS: usize = 16;
/// The time between two looks at threads that are waited for.
const LOOK: Duration = Duration::from_millis(5);

static SUMMONSES: [AtomicPtr<Summons<Interrupted>>; CHUNKS] = [const { AtomicPtr::new(ptr::null_mut()) }; CHUNKS];
/// Calls so far; written only while all locks are held.
static CALLS: AtomicU32 = AtomicU32::new(0);

/// The chunk that a summons is in, and its place there.
const fn place(index: usize) -> (usize, usize) {
    let chunk = (index / FIRST_CHUNK + 1).ilog2() as usize;
    (chunk, index - (((1 << chunk) - 1) * FIRST_CHUNK))
}

fn summons(index: usize) -> Option<&'static Summons<Interrupted>> {
    let (chunk, offset) = place(index);
    // Acquire: pairs with the Release in `make`.
    let start = SUMMONSES.get(chunk)?.load(Ordering::Acquire);
    // SAFETY: inside the chunk; never unmapped, and valid as zeroed memory.
    if start.is_null() { None } else { Some(unsafe { &*start.add(offset) }) }
}

/// The summons with this index, which is made if need be; `None` if the OS gives no memory.
fn make(index: usize) -> Option<&'static Summons<Interrupted>> {
    if let Some(found) = summons(index) {
        return Some(found);
    }
    let (chunk, _) = place(index);
    let page_bytes = SystemMemory.page_bytes();
    let bytes = (size_of::<Summons<Interrupted>>() * (FIRST_CHUNK << chunk)).next_multiple_of(page_bytes);
    let start = SystemMemory.map(bytes, page_bytes)?;
    // Release: pairs with the Acquire in `summons`; zeroed memory is a valid chunk.
    SUMMONSES.get(chunk)?.store(start.as_ptr().cast(), Ordering::Release);
    summons(index)
}

/// What the signal's handler calls.
pub(super) fn receive(number: usize, interrupted: Interrupted) {
    let call = Call::of_number(number as u32);
    if let Some(summons) = summons(number >> 32) {
        summons.arrive(call, interrupted);
    }
}

/// The other threads that block the signal until the end of this time.
pub(super) fn blocking(signal: c_int, until: Instant) -> Vec<u32> {
    let mut threads = Vec::new();
    // An error can be ignored here: `stop` lists the threads again, and reports it.
    let _ = tasks::each_task(|thread| threads.push(thread));
    let own = os::thread_id();
    threads.retain(|&thread| thread != own);
    loop {
        threads.retain(|&thread| tasks::task(thread, signal) == Task::Blocks);
        if threads.is_empty() || Instant::now() >= until {
            return threads;
        }
        std::thread::sleep(LOOK);
    }
}

/// Why threads could not be stopped.
pub(super) enum Failure {
    Memory,
    /// A thread blocks the signal or does not arrive, or signals can't be queued; perhaps that is only for the moment.
    Blocks,
    /// There is no list of threads; the system's error number.
    NoList(c_int),
}

#[derive(Clone, Copy)]
struct Called {
    thread: u32,
    /// The index of its summons; none for a thread that is not waited for.
    summons: Option<usize>,
}

/// The other threads, standing still until this is dropped.
pub(super) struct Stopped {
    call: Call,
    called: Mapped<Called>,
    /// The registers that the kernel saved, for each thread that stands still.
    pub(super) standing: Mapped<Interrupted>,
    /// Threads that could not be stopped.
    pub(super) left: Mapped<u32>,
}

/// How threads are stopped.
pub(super) struct Order<'order> {
    pub(super) signal: c_int,
    /// The threads that are known to block the signal.
    pub(super) blocking: &'order [u32],
    /// How long the threads may stand before all have arrived.
    pub(super) window: Duration,
    /// Whether this is the last attempt: threads that do not arrive are left. In the others they are a
    /// [`Failure::Blocks`].
    pub(super) is_last: bool,
}

/// Stops the other threads, except those that are known to block the signal. The caller holds all locks of the crate
/// and blocks all other signals.
pub(super) fn stop(order: &Order<'_>) -> Result<Stopped, Failure> {
    // Relaxed (both): one caller at a time, under all locks.
    let call = Call::of_number(CALLS.load(Ordering::Relaxed).wrapping_add(1));
    CALLS.store(call.number(), Ordering::Relaxed);
    let begun = Instant::now();
    let mut stopped = Stopped { call, called: Mapped::new(), standing: Mapped::new(), left: Mapped::new() };
    let own = os::thread_id();
    loop {
        let first = stopped.called.len();
        let mut called = Ok(());
        let mut is_own_list = false;
        let listed = tasks::each_task(|thread| {
            is_own_list |= thread == own;
            if called.is_ok() && thread != own && !stopped.called.iter().any(|called| called.thread == thread) {
                called = stopped.call(thread, order);
            }
        });
        listed.map_err(Failure::NoList)?;
        if !is_own_list {
            // In a namespace of processes that has the `/proc` of another.
            return Err(Failure::NoList(libc::ESRCH));
        }
        called?;
        if stopped.called.len() == first {
            return Ok(stopped);
        }
        for index in first..stopped.called.len() {
            stopped.wait(index, order, begun)?;
        }
    }
}

impl Stopped {
    /// Calls a thread that is new.
    fn call(&mut self, thread: u32, order: &Order<'_>) -> Result<(), Failure> {
        if order.blocking.contains(&thread) {
            self.left.push(thread).ok_or(Failure::Memory)?;
            return self.called.push(Called { thread, summons: None }).ok_or(Failure::Memory);
        }
        // The process's first thread may have ended, and stays in the list.
        if thread == os::process_id() && tasks::task(thread, order.signal) == Task::Gone {
            return self.called.push(Called { thread, summons: None }).ok_or(Failure::Memory);
        }
        let index = self.called.len();
        let summons = make(index).ok_or(Failure::Memory)?;
        summons.call(self.call);
        self.called.push(Called { thread, summons: Some(index) }).ok_or(Failure::Memory)?;
        let number = index << 32 | self.call.number() as usize;
        let Err(error) = tasks::send(thread, order.signal, number) else { return Ok(()) };
        summons.abandon(self.call);
        self.called.last_mut().ok_or(Failure::Memory)?.summons = None;
        match error {
            libc::ESRCH => Ok(()),
            _ if !order.is_last => Err(Failure::Blocks),
            _ => self.left.push(thread).ok_or(Failure::Memory),
        }
    }

    /// Waits until a called thread stands, has ended, or can't be waited for any longer.
    fn wait(&mut self, index: usize, order: &Order<'_>, begun: Instant) -> Result<(), Failure> {
        let called = self.called.get_mut(index).ok_or(Failure::Memory)?;
        let Some(summons) = called.summons.and_then(summons) else { return Ok(()) };
        let thread = called.thread;
        let said = loop {
            if let Some(said) = summons.stands(self.call) {
                break said;
            }
            let rest = order.window.saturating_sub(begun.elapsed());
            summons.wait_for(self.call, rest.min(LOOK));
            if summons.stands(self.call).is_some() {
                continue;
            }
            let about = tasks::task(thread, order.signal);
            // In the last attempt, a thread may still be on its way into the handler, which blocks all signals.
            let blocks = about == Task::Blocks && (!order.is_last || begun.elapsed() > LOOK * 4);
            if about != Task::Gone {
                if !blocks && !rest.is_zero() {
                    continue;
                }
                if !order.is_last {
                    return Err(Failure::Blocks);
                }
            }
            if let Some(said) = summons.abandon(self.call) {
                break said;
            }
            called.summons = None;
            return if about == Task::Gone { Ok(()) } else { self.left.push(thread).ok_or(Failure::Memory) };
        };
        self.standing.push(said).ok_or(Failure::Memory)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        for called in self.called.iter() {
            let Some(summons) = called.summons.and_then(summons) else { continue };
            // Some were called and not waited for, if something failed.
            if summons.stands(self.call).is_some() || summons.abandon(self.call).is_some() {
                summons.dismiss();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_index_has_a_place_of_its_own() {
        let mut last = (0, 0);
        for index in 1..FIRST_CHUNK * 15 {
            let (chunk, offset) = place(index);
            let next = if last.1 + 1 == FIRST_CHUNK << last.0 { (last.0 + 1, 0) } else { (last.0, last.1 + 1) };
            assert_eq!((chunk, offset), next);
            last = next;
        }
    }
}
