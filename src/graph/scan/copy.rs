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

/// Why a scan has no result.
pub(in crate::graph) enum Failure {
    Scan(ScanError),
    /// The copy ended, with this status.
    Ended(i32),
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
                [FAILED, 3, error, ..] => return Err(Failure::Scan(ScanError::System(error as i32))),
                [DONE, nodes, ends, edges, roots, frames] => {
                    return Ok(Received {
                        nodes: self.array(nodes)?,
                        ends: self.array(ends)?,
                        edges: self.array(edges)?,
                        roots: self.array(roots)?,
                        frames: self.array(frames)?,
                    });
                }
                _ => return Err(Failure::Scan(ScanError::TooLarge)),
            }
        }
    }

    fn array<T: Plain>(&mut self, length: u64) -> Result<Vec<T>, Failure> {
        let length = usize::try_from(length).map_err(|_| Failure::Scan(ScanError::TooLarge))?;
        let mut values: Vec<T> = room(length).ok_or(Failure::Scan(ScanError::Memory))?;
        // SAFETY: the vector's own memory, for which zeros are valid; it is filled to the end below, or dropped.
        let bytes = unsafe {
            values.as_mut_ptr().write_bytes(0, length);
            core::slice::from_raw_parts_mut(values.as_mut_ptr().cast::<u8>(), length * size_of::<T>())
        };
        self.read(bytes)?;
        // SAFETY: all of them were written.
        unsafe { values.set_len(length) };
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
