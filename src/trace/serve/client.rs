//! The client: asks the server, and looks up names.

use core::fmt;
use core::time::Duration;
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use super::{ASKS_HEAP, ASKS_LIVE, GREETING, peer_user};
use crate::trace::names::recorded::Recorded;
use crate::trace::read::snapshot::{Builder, CodePlace, Snapshot, without_allocator, without_inlined_allocator};
use crate::trace::record::encode::{CHECKSUM_BYTES, HEAD_BYTES};
use crate::trace::record::loaded;
use crate::trace::record::state::Busy;
use crate::trace::timeline::decode::{Head, Item, Sample, Split, split};

/// A server that is silent for longer is given up.
const PATIENCE: Duration = Duration::from_secs(10);
/// The most bytes of one record.
const RECORD_BYTES_MAX: usize = 256 << 20;

/// Why a program can't be watched.
#[derive(Debug)]
#[non_exhaustive]
pub enum WatchError {
    /// No program serves there, or the one that did has ended the connection.
    Io(io::Error),
    /// The program that serves there is another user's.
    OtherUser(u32),
    /// The program that serves there does not speak this tracer's protocol.
    NotAServer,
}

impl fmt::Display for WatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::OtherUser(user) => write!(f, "the server is user {user}'s"),
            Self::NotAServer => write!(f, "the program there does not speak this tracer's protocol"),
        }
    }
}

impl core::error::Error for WatchError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl From<io::Error> for WatchError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// What a watched program holds at one moment.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Look {
    /// The live blocks, with names. The sums of each call stack are exact; each block has the average size of its
    /// stack.
    pub snapshot: Snapshot,
    /// Whether the program is traced.
    pub is_tracing: bool,
    /// Bytes of all traced blocks.
    pub bytes_live: usize,
    /// The most of these bytes since the tracer's start.
    pub bytes_peak: usize,
    /// Bytes of the process that are in memory (its resident set, RSS), as the OS says.
    pub bytes_resident: usize,
    /// Bytes of the arenas that are mapped.
    pub bytes_arenas: usize,
    /// Mean bytes between sampled blocks; `None` if every block is traced.
    pub sampled_every: Option<usize>,
}

/// A connection to a program that [serves](crate::trace::serve()).
pub struct Watch {
    stream: UnixStream,
    head: Head,
    recorded: Recorded,
    stacks: HashMap<u32, Vec<usize>>,
    places: HashMap<usize, CodePlace>,
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("stream", &self.stream).finish_non_exhaustive()
    }
}

impl Watch {
    /// Connects to a socket.
    ///
    /// # Errors
    /// See [`WatchError`].
    pub fn connect(path: impl AsRef<Path>) -> Result<Self, WatchError> {
        let mut stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        // SAFETY: no preconditions.
        let own = unsafe { libc::geteuid() };
        if let Some(user) = peer_user(&stream).filter(|&user| user != own && own != 0) {
            return Err(WatchError::OtherUser(user));
        }
        let mut greeting = [0; GREETING.len()];
        stream.read_exact(&mut greeting)?;
        if &greeting != GREETING {
            return Err(WatchError::NotAServer);
        }
        let (stacks, places) = (HashMap::new(), HashMap::new());
        Ok(Self { stream, head: Head::default(), recorded: Recorded::default(), stacks, places })
    }

    /// Asks the program what is live.
    ///
    /// # Errors
    /// See [`WatchError`]; after an error, the connection is of no use any more.
    pub fn look(&mut self) -> Result<Look, WatchError> {
        let _busy = Busy::enter();
        self.stream.write_all(&[ASKS_LIVE])?;
        let mut live = None;
        loop {
            match self.receive()? {
                Item::Head(head) => {
                    self.recorded.folder = PathBuf::from(&head.folder);
                    self.head = head;
                    self.stacks.clear();
                }
                Item::Module(number, module) => {
                    self.recorded.modules.insert(number, module);
                }
                Item::Stack(number, words) => {
                    self.stacks.insert(number, words);
                }
                Item::Live(sample) => live = Some(sample),
                Item::End => break,
                _ => return Err(WatchError::NotAServer),
            }
        }
        self.look_of(&live.ok_or(WatchError::NotAServer)?)
    }

    fn look_of(&mut self, live: &Sample) -> Result<Look, WatchError> {
        let mut build = Builder::default();
        for change in &live.changes {
            let words = self.stacks.get(&change.stack).ok_or(WatchError::NotAServer)?;
            let places = words.iter().map(|&word| {
                let recorded = &mut self.recorded;
                let place = self.places.entry(word).or_insert_with(|| CodePlace {
                    address: loaded::address_of(word) as u64,
                    module: None,
                    frames: without_inlined_allocator(recorded.look_up(word)),
                });
                place.clone()
            });
            let stack = build.stack(without_allocator(places.collect(), self.head.frames));
            if let (Ok(bytes), Ok(blocks)) = (u64::try_from(change.bytes), u64::try_from(change.blocks)) {
                build.add_sum(stack, bytes, blocks);
            }
        }
        self.recorded.release_debug_information();
        Ok(Look {
            snapshot: Snapshot { frames: self.head.frames, lost: live.lost, ..build.finish() },
            is_tracing: live.time != 0,
            bytes_live: live.live as usize,
            bytes_peak: live.most as usize,
            bytes_resident: live.resident as usize,
            bytes_arenas: live.arenas as usize,
            sampled_every: (live.kind != 0).then_some(live.kind as usize),
        })
    }

    /// Asks the program for its heap: the [statistics](crate::stats()) as text, and two bytes per pool.
    ///
    /// Pools come in the order of addresses, 64 per arena. The first byte is the [number](crate::class_number) of the
    /// pool's class plus one; 0 if the pool is unused, 254 if it is a part of something larger, 255 if it is empty and
    /// kept by a thread. The second byte is the share of its blocks that is live, in 255ths.
    ///
    /// # Errors
    /// As for [`look`](Self::look).
    pub fn heap(&mut self) -> Result<(String, Vec<[u8; 2]>), WatchError> {
        let _busy = Busy::enter();
        self.stream.write_all(&[ASKS_HEAP])?;
        let (mut text, mut pools) = (String::new(), Vec::new());
        loop {
            match self.receive()? {
                Item::Text(told) => text = told,
                Item::Pools(bytes) => pools = bytes.as_chunks().0.to_vec(),
                Item::End => return Ok((text, pools)),
                _ => return Err(WatchError::NotAServer),
            }
        }
    }

    /// The number of the process that serves; 0 before the first [`look`](Self::look).
    pub fn process(&self) -> u32 {
        self.head.process
    }

    /// The program that serves; empty before the first [`look`](Self::look).
    pub fn program(&self) -> &str {
        &self.head.program
    }

    fn receive(&mut self) -> Result<Item, WatchError> {
        let mut record = vec![0; HEAD_BYTES];
        self.stream.read_exact(&mut record)?;
        let len = u32::from_le_bytes([record[1], record[2], record[3], record[4]]) as usize;
        if len > RECORD_BYTES_MAX {
            return Err(WatchError::NotAServer);
        }
        let more = (len + CHECKSUM_BYTES) as u64;
        if (&mut self.stream).take(more).read_to_end(&mut record)? as u64 != more {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        match split(&record) {
            Split::Whole { kind, content, .. } => Item::of(kind, content).ok_or(WatchError::NotAServer),
            _ => Err(WatchError::NotAServer),
        }
    }
}
