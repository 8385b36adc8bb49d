//! A scan by a copy of the process, which sends what it finds through a pipe.
//!
//! The copy has the memory of the moment in which it was made, so the program's threads go on while it scans. The copy
//! has one thread: it takes no lock that another thread may have held at that moment. It gets no signals, and ends with
//! its parent.
//!
//! # Messages
//! A message is a few words: its kind, then its numbers. After [`DONE`] the tables follow, as they are in memory.

use super::tables::Tables;
use super::{Input, ScanError, scan};
use crate::graph::found::{Edge, FrameNote, RawNode, Received, Root};
use crate::os::Descriptor;
use crate::os::tasks;

const WORDS: usize = 6;
/// Tells how much is done, and of how much.
const PROGRESS: u64 = 1;
/// The scan failed: tells the kind of failure, and the system's error number.
const FAILED: u64 = 2;
/// The scan is done: tells the length of each table that follows.
const DONE: u64 = 3;

/// After this many milliseconds without data, the parent checks that the copy is alive.
const LOOK: i32 = 100;

/// Entries of a table for which memory is taken before any has come.
const FIRST_PART: usize = 1 << 16;

/// Why a scan has no result.
pub(in crate::graph) enum Failure {
    Scan(ScanError),
    /// The copy ended, with this status.
    Ended(i32),
    /// What it sent is none of the messages, or tables that do not fit each other.
    Garbled,
}

/// A type of which any bytes are a valid value.
///
/// # Safety
/// The type has only numbers, and no padding.
unsafe trait Plain: Copy {}

// SAFETY: a number.
unsafe impl Plain for u32 {}
// SAFETY: a number.
unsafe impl Plain for u64 {}
// SAFETY: two words and two half words.
unsafe impl Plain for RawNode {}
// SAFETY: two numbers of the same type.
unsafe impl Plain for Edge {}
// SAFETY: a word, four half words and a word.
unsafe impl Plain for Root {}
// SAFETY: three words.
unsafe impl Plain for FrameNote {}

const _: () = assert!(size_of::<RawNode>() == 24 && size_of::<Edge>() == 8 && size_of::<Root>() == 32);
const _: () = assert!(size_of::<FrameNote>() == 24);

fn bytes_of<T: Plain>(values: &[T]) -> &[u8] {
    // SAFETY: without padding, all bytes are initialised.
    unsafe { core::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

/// A copy of the process, which scans. It is killed when this is dropped.
pub(in crate::graph) struct Copied {
    child: i32,
    pipe: Descriptor,
    ended: bool,
}

/// Makes a copy of the process, which scans. The other threads may go on when this returns.
///
/// # Errors
/// If the system makes no copy: its error number.
///
/// # Safety
/// As for [`scan`].
pub(in crate::graph) unsafe fn in_copy(input: &Input<'_>) -> Result<Copied, i32> {
    let (read, write) = tasks::pipe().ok_or(libc::EMFILE)?;
    match tasks::copy_process() {
        Ok(None) => {
            // The copy must never go on as the program, not even after a panic.
            let _ends = EndsCopy;
            tasks::quiet_copy(write);
            // An error is ignored: if the parent is gone, sending the result fails, too.
            let mut tell = |done, total| {
                let _ = send(write, [PROGRESS, done, total, 0, 0, 0]);
            };
            // SAFETY: the caller's promise.
            let found = unsafe { scan(input, true, &mut tell) };
            let sent = match found {
                Ok(tables) => send_tables(write, &tables),
                Err(ScanError::Memory) => send(write, [FAILED, 1, 0, 0, 0, 0]),
                Err(ScanError::TooLarge) => send(write, [FAILED, 2, 0, 0, 0, 0]),
                Err(ScanError::System(error)) => send(write, [FAILED, 3, error as u64, 0, 0, 0]),
            };
            tasks::exit_copy(i32::from(sent.is_err()));
        }
        Ok(Some(child)) => {
            write.close();
            Ok(Copied { child, pipe: read, ended: false })
        }
        Err(error) => {
            read.close();
            write.close();
            Err(error)
        }
    }
}

/// Ends the copy of the process when it is dropped.
struct EndsCopy;

impl Drop for EndsCopy {
    fn drop(&mut self) {
        tasks::exit_copy(2);
    }
}

fn send(pipe: Descriptor, message: [u64; WORDS]) -> Result<(), i32> {
    pipe.write_all(bytes_of(&message))
}

fn send_tables(pipe: Descriptor, tables: &Tables) -> Result<(), i32> {
    let Tables { nodes, ends, edges, roots, frames } = tables;
    let lengths = [nodes.len(), ends.len(), edges.len(), roots.len(), frames.len()].map(|length| length as u64);
    let [nodes_len, ends_len, edges_len, roots_len, frames_len] = lengths;
    send(pipe, [DONE, nodes_len, ends_len, edges_len, roots_len, frames_len])?;
    pipe.write_all(bytes_of(nodes))?;
    pipe.write_all(bytes_of(ends))?;
    pipe.write_all(bytes_of(edges))?;
    pipe.write_all(bytes_of(roots))?;
    pipe.write_all(bytes_of(frames))
}

impl Copied {
    /// Waits until the copy has sent what it found.
    pub(in crate::graph) fn receive(mut self, progress: &mut dyn FnMut(u64, u64)) -> Result<Received, Failure> {
        loop {
            let mut message = [0_u64; WORDS];
            // SAFETY: plain words.
            let bytes =
                unsafe { core::slice::from_raw_parts_mut(message.as_mut_ptr().cast::<u8>(), size_of_val(&message)) };
            self.read(bytes)?;
            match message {
                [PROGRESS, done, total, ..] => progress(done, total),
                [FAILED, 1, ..] => return Err(Failure::Scan(ScanError::Memory)),
                [FAILED, 2, ..] => return Err(Failure::Scan(ScanError::TooLarge)),
                [FAILED, 3, error, ..] => return Err(Failure::Scan(ScanError::System(error as i32))),
                [DONE, nodes, ends, edges, roots, frames] => {
                    let received = Received {
                        nodes: self.array(nodes)?,
                        ends: self.array(ends)?,
                        edges: self.array(edges)?,
                        roots: self.array(roots)?,
                        frames: self.array(frames)?,
                    };
                    return if received.is_sound() { Ok(received) } else { Err(Failure::Garbled) };
                }
                _ => return Err(Failure::Garbled),
            }
        }
    }

    fn array<T: Plain>(&mut self, length: u64) -> Result<Vec<T>, Failure> {
        let length = usize::try_from(length).map_err(|_| Failure::Garbled)?;
        let mut values: Vec<T> = Vec::new();
        // At most twice what has come: a number of more than is sent takes no memory.
        while values.len() < length {
            let known = values.len();
            let part = (length - known).min(known.max(FIRST_PART));
            values.try_reserve_exact(part).map_err(|_| Failure::Scan(ScanError::Memory))?;
            // SAFETY: the spare memory of the vector, for which zeros are valid.
            let bytes = unsafe {
                let start = values.as_mut_ptr().add(known);
                start.write_bytes(0, part);
                core::slice::from_raw_parts_mut(start.cast::<u8>(), part * size_of::<T>())
            };
            self.read(bytes)?;
            // SAFETY: all of them were written.
            unsafe { values.set_len(known + part) };
        }
        Ok(values)
    }

    /// Fills a buffer.
    fn read(&mut self, mut buffer: &mut [u8]) -> Result<(), Failure> {
        while !buffer.is_empty() {
            let read = if tasks::wait_readable(self.pipe, LOOK) { self.pipe.read(buffer) } else { 0 };
            if read > 0 {
                buffer = buffer.split_at_mut(read).1;
            } else if let Some(status) = tasks::status_of_copy(self.child, false) {
                self.ended = true;
                // Data that the copy wrote before it ended is still read.
                let read = if tasks::wait_readable(self.pipe, 0) { self.pipe.read(buffer) } else { 0 };
                if read == 0 {
                    return Err(Failure::Ended(status));
                }
                buffer = buffer.split_at_mut(read).1;
            }
        }
        Ok(())
    }
}

impl Drop for Copied {
    fn drop(&mut self) {
        self.pipe.close();
        if !self.ended {
            tasks::kill_copy(self.child);
            tasks::status_of_copy(self.child, true);
        }
    }
}

fn room<T>(length: usize) -> Option<Vec<T>> {
    let mut values = Vec::new();
    values.try_reserve_exact(length).ok()?;
    Some(values)
}

/// The tables of a scan in the process, made while the other threads stood still.
pub(in crate::graph) struct InProcess(Tables);

/// Scans in the process. The result is taken once the other threads go on.
///
/// # Safety
/// As for [`scan`].
pub(in crate::graph) unsafe fn in_process(input: &Input<'_>) -> Result<InProcess, ScanError> {
    // SAFETY: the caller's promise.
    unsafe { scan(input, false, &mut |_, _| {}) }.map(InProcess)
}

impl InProcess {
    /// Copies the tables to memory that can be kept.
    pub(in crate::graph) fn take(self) -> Result<Received, Failure> {
        fn copied<T: Copy>(values: &[T]) -> Result<Vec<T>, Failure> {
            let mut copy = room(values.len()).ok_or(Failure::Scan(ScanError::Memory))?;
            copy.extend_from_slice(values);
            Ok(copy)
        }
        let Tables { nodes, ends, edges, roots, frames } = &self.0;
        Ok(Received {
            nodes: copied(nodes)?,
            ends: copied(ends)?,
            edges: copied(edges)?,
            roots: copied(roots)?,
            frames: copied(frames)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the parent makes of such bytes, after which the copy ends.
    fn receive(bytes: &[u8]) -> Result<Received, Failure> {
        let (read, write) = tasks::pipe().expect("a pipe");
        let child = tasks::copy_process().expect("a copy");
        let Some(child) = child else {
            let _ = write.write_all(bytes);
            tasks::exit_copy(5);
        };
        write.close();
        Copied { child, pipe: read, ended: false }.receive(&mut |_, _| {})
    }

    fn message(words: [u64; WORDS]) -> Vec<u8> {
        bytes_of(&words).to_vec()
    }

    /// Two blocks that refer to each other, and a root: small block, large block.
    fn tables() -> Received {
        let node = |address: usize| RawNode { address: !address, bytes: 16, stack: 1, words: 2 };
        let edge = |target| Edge { target, word: 0 };
        Received {
            nodes: vec![node(1 << 20), node(1 << 12)],
            ends: vec![1, 2],
            edges: vec![edge(1), edge(0)],
            roots: vec![Root { address: 8, target: 1, kind: 9, owner: 77, module: 77, offset: 0 }],
            frames: vec![FrameNote { sp: 1, word: usize::MAX, thread: 12 }],
        }
    }

    fn bytes_of_tables(tables: &Received) -> Vec<u8> {
        let Received { nodes, ends, edges, roots, frames } = tables;
        let lengths = [nodes.len(), ends.len(), edges.len(), roots.len(), frames.len()].map(|length| length as u64);
        let mut bytes = message([DONE, lengths[0], lengths[1], lengths[2], lengths[3], lengths[4]]);
        for part in [bytes_of(nodes), bytes_of(ends), bytes_of(edges), bytes_of(roots), bytes_of(frames)] {
            bytes.extend(part);
        }
        bytes
    }

    #[test]
    fn what_a_copy_sends_is_received() {
        let mut bytes = message([PROGRESS, 1, 2, 0, 0, 0]);
        bytes.extend(bytes_of_tables(&tables()));
        let received = receive(&bytes).ok().expect("tables");
        assert_eq!((received.nodes.len(), received.ends, received.edges), (2, vec![1, 2], tables().edges));
    }

    #[test]
    fn what_is_cut_off_anywhere_ends_with_the_copys_status() {
        let whole = bytes_of_tables(&tables());
        for end in 0..whole.len() {
            let Err(Failure::Ended(status)) = receive(&whole[..end]) else { panic!("cut off after {end} bytes") };
            assert_eq!(libc::WEXITSTATUS(status), 5);
        }
    }

    #[test]
    fn more_is_announced_than_is_sent_and_no_memory_is_taken_for_it() {
        let before = peak_bytes();
        for table in 1..WORDS {
            for count in [1 << 29, 1 << 40, u64::MAX / 32, u64::MAX] {
                let mut words = [DONE, 0, 0, 0, 0, 0];
                words[table] = count;
                let mut bytes = message(words);
                bytes.extend([0; 5000]);
                assert!(matches!(receive(&bytes), Err(Failure::Ended(_))), "{words:?}");
            }
        }
        let taken = peak_bytes() - before;
        assert!(taken < 1 << 30, "{taken} bytes");
    }

    /// Most bytes of memory so far (`VmHWM`, in KiB).
    fn peak_bytes() -> usize {
        let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
        let line = status.lines().find(|line| line.starts_with("VmHWM")).expect("Linux");
        line.split_whitespace().nth(1).and_then(|number| number.parse::<usize>().ok()).expect("a number") << 10
    }

    #[test]
    fn numbers_of_no_block_and_tables_that_do_not_fit_are_refused() {
        let damages: [fn(&mut Received); 9] = [
            |tables| tables.edges[0].target = 2,
            |tables| tables.roots[0].target = u32::MAX,
            |tables| tables.ends[0] = 3,
            |tables| tables.ends[1] = 1,
            |tables| assert!(tables.ends.pop().is_some()),
            |tables| assert!(tables.edges.pop().is_some()),
            |tables| tables.nodes[0].bytes = usize::MAX,
            |tables| {
                tables.nodes.extend_from_within(..);
                tables.ends.extend([2, 2]);
            },
            |tables| assert!(tables.nodes.pop().is_some()),
        ];
        for (number, damage) in damages.iter().enumerate() {
            let mut tables = tables();
            damage(&mut tables);
            assert!(matches!(receive(&bytes_of_tables(&tables)), Err(Failure::Garbled)), "{number}");
        }
    }

    #[test]
    fn random_bytes_are_refused_or_cut_off() {
        let mut random = 1_u64;
        let mut next = || {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            random >> 33
        };
        for round in 0..300 {
            // Every other one begins like a message.
            let mut bytes = if round % 2 == 0 { Vec::new() } else { message([next() % 5, 1, 1, 1, 1, 1]) };
            bytes.extend((0..next() % 400).map(|_| next() as u8));
            if let Ok(received) = receive(&bytes) {
                assert!(received.is_sound());
            }
        }
    }
}
