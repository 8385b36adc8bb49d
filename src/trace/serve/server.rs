//! The thread that answers. It waits for no client: sockets do not block, and each client has a buffer in the tracer's
//! own memory for what it has not read yet.

use core::ffi::c_void;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use core::time::Duration;
use std::fmt::{self, Write as _};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::{ASKS_HEAP, ASKS_LIVE, GREETING, ServeError, peer_user};
use crate::base::config::ARENA_BYTES;
use crate::cache::GLOBAL;
use crate::inspect::heap_map::HeapMap;
use crate::inspect::stats::{Stats, add_stats};
use crate::os::{self, OwnThread, fork};
use crate::trace::record::config::Config;
use crate::trace::record::encode::{self, Defined, Record, Records};
use crate::trace::record::state::{Busy, INTERVAL_BYTES, SESSION};
use crate::trace::record::sums::Sums;
use crate::trace::record::{blocks, peaks, stacks, timeline};

const CLIENTS_MAX: usize = 8;
/// A client that has not read an answer by then is dropped.
const PATIENCE: Duration = Duration::from_secs(5);
/// The least time from one answer to the next.
const PAUSE: Duration = Duration::from_millis(50);

/// The descriptors that a forked child must close; -1 for none. The listening one comes first.
static DESCRIPTORS: [AtomicI32; CLIENTS_MAX + 1] = [const { AtomicI32::new(-1) }; CLIENTS_MAX + 1];
/// The process that serves, by its generation plus one; 0 for none.
static TAKEN_BY: AtomicU32 = AtomicU32::new(0);

/// Closes the parent's descriptors in a forked child: otherwise a client would never see the end of the connection.
pub(in crate::trace) fn close_in_child() {
    for descriptor in &DESCRIPTORS {
        // Relaxed: the child has one thread.
        let number = descriptor.swap(-1, Ordering::Relaxed);
        if number >= 0 {
            // SAFETY: a number; the value that owns it belongs to a thread that the child does not have, or is
            // forgotten (`Server::drop`).
            unsafe { libc::close(number) };
        }
    }
}

/// What the thread works with.
struct Work {
    listener: UnixListener,
    wake: OwnedFd,
    is_stopped: AtomicBool,
    /// The record that each client gets first.
    head: Records,
}

pub(super) struct Running {
    work: Arc<Work>,
    thread: OwnThread,
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").field("listener", &self.work.listener).finish_non_exhaustive()
    }
}

/// A socket that listens at `path`, for its user alone.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    // If no program listens there any more, the socket is left over.
    if is_socket && UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
        std::fs::remove_file(path)?;
    }
    let address = socket_address(path)?;
    // SAFETY: numbers; the new descriptor is owned below.
    let socket = unsafe {
        let number = libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0);
        if number < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(number)
    };
    let number = socket.as_raw_fd();
    // The mode is set first: so the name that `bind` makes has it from its first moment.
    // SAFETY: a descriptor, and an address of its whole length.
    let is_bound = unsafe {
        libc::fchmod(number, 0o600) == 0
            && libc::bind(number, (&raw const address).cast(), size_of_val(&address) as libc::socklen_t) == 0
            && libc::listen(number, CLIENTS_MAX as libc::c_int) == 0
    };
    if is_bound { Ok(socket.into()) } else { Err(io::Error::last_os_error()) }
}

fn socket_address(path: &Path) -> io::Result<libc::sockaddr_un> {
    // SAFETY: plain data, of which zero is a valid value.
    let mut address: libc::sockaddr_un = unsafe { core::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let bytes = path.as_os_str().as_encoded_bytes();
    if bytes.len() >= address.sun_path.len() || bytes.contains(&0) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a path of 108 bytes or more"));
    }
    for (place, &byte) in address.sun_path.iter_mut().zip(bytes) {
        *place = byte as libc::c_char;
    }
    Ok(address)
}

fn wake_up() -> io::Result<OwnedFd> {
    // SAFETY: numbers; the new descriptor is owned.
    let number = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    // SAFETY: as above.
    if number < 0 { Err(io::Error::last_os_error()) } else { Ok(unsafe { OwnedFd::from_raw_fd(number) }) }
}

impl Running {
    /// The caller is [`Busy`].
    pub(super) fn start(path: &Path) -> Result<Self, ServeError> {
        let own = fork::generation().wrapping_add(1);
        // Relaxed (all uses of this word): it is only a flag. One that an ancestor process left does not count.
        let take = |taken_by| (taken_by != own).then_some(own);
        if TAKEN_BY.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_err() {
            return Err(ServeError::AlreadyServing);
        }
        Self::start_taken(path).map_err(|error| {
            TAKEN_BY.store(0, Ordering::Relaxed);
            ServeError::Io(error)
        })
    }

    fn start_taken(path: &Path) -> io::Result<Self> {
        let mut head = Records::new();
        let config = Config::new().frames(Config::FRAMES_MAX);
        timeline::head(&mut head, config, Duration::ZERO).ok_or(io::ErrorKind::OutOfMemory)?;
        let wake = wake_up()?;
        let listener = listen(path)?;
        let work = Arc::new(Work { listener, wake, is_stopped: AtomicBool::new(false), head });
        let for_thread = Arc::into_raw(Arc::clone(&work));
        match os::start_thread(run, for_thread.cast_mut().cast()) {
            Ok(thread) => {
                // Relaxed: for a child that is forked by this thread, or by one that learns of the server from it.
                DESCRIPTORS[0].store(work.listener.as_raw_fd(), Ordering::Relaxed);
                Ok(Self { work, thread })
            }
            Err(error) => {
                // SAFETY: from `into_raw` above; no thread has it.
                drop(unsafe { Arc::from_raw(for_thread) });
                let _ = std::fs::remove_file(path);
                Err(io::Error::from_raw_os_error(error))
            }
        }
    }

    /// Waits until the thread has ended.
    pub(super) fn stop(self) {
        // Relaxed: the thread reads it after the event, which orders both.
        self.work.is_stopped.store(true, Ordering::Relaxed);
        let one = 1_u64;
        // SAFETY: eight bytes, as an eventfd wants.
        unsafe { libc::write(self.work.wake.as_raw_fd(), (&raw const one).cast(), size_of::<u64>()) };
        self.thread.join();
        DESCRIPTORS[0].store(-1, Ordering::Relaxed);
        TAKEN_BY.store(0, Ordering::Relaxed);
    }
}

/// A client that is being served.
struct Client {
    stream: UnixStream,
    /// The bytes from `sent` on are not sent yet.
    answer: Records,
    sent: usize,
    /// While an answer is being sent: the time at which the client is dropped if it has not read all of it. Afterwards:
    /// the time from which on the client may ask again.
    due: Instant,
    defined: Defined,
    /// The session whose stacks are defined to it.
    session: u32,
}

impl Client {
    fn new(stream: UnixStream) -> Option<Self> {
        let user = peer_user(&stream)?;
        // SAFETY: no preconditions.
        let is_own = user == unsafe { libc::geteuid() } || user == 0;
        if !is_own || stream.set_nonblocking(true).is_err() {
            return None;
        }
        let mut answer = Records::new();
        answer.bytes.extend(GREETING)?;
        let due = Instant::now() + PATIENCE;
        Some(Self { stream, answer, sent: 0, due, defined: Defined::NONE, session: 0 })
    }

    fn is_waiting(&self) -> bool {
        self.sent < self.answer.bytes.len()
    }

    /// Does what can be done without waiting; `None` if the client must be dropped.
    fn serve(&mut self, head: &Records) -> Option<()> {
        if self.is_waiting() {
            return if Instant::now() < self.due { self.send() } else { None };
        }
        if Instant::now() < self.due {
            return Some(());
        }
        let mut question = [0];
        match self.stream.read(&mut question) {
            Ok(1) => self.answer(question[0], head)?,
            Err(error) if is_later(&error) => return Some(()),
            _ => return None,
        }
        self.due = Instant::now() + PATIENCE;
        self.send()
    }

    fn send(&mut self) -> Option<()> {
        while self.is_waiting() {
            match self.stream.write(&self.answer.bytes[self.sent..]) {
                Ok(0) => return None,
                Ok(sent) => self.sent += sent,
                Err(error) if is_later(&error) => return Some(()),
                Err(_) => return None,
            }
        }
        self.answer = Records::new();
        self.sent = 0;
        self.due = Instant::now() + PAUSE;
        Some(())
    }

    fn answer(&mut self, question: u8, head: &Records) -> Option<()> {
        match question {
            ASKS_LIVE => self.answer_live(head)?,
            ASKS_HEAP => answer_heap(&mut self.answer)?,
            _ => return None,
        }
        self.answer.begin(encode::END).end()
    }

    fn answer_live(&mut self, head: &Records) -> Option<()> {
        // Relaxed: only a number; a stack that is gone meanwhile has no frames.
        let session = SESSION.load(Ordering::Relaxed);
        if self.session != session || self.defined.is_empty() {
            self.session = session;
            self.defined = Defined::new()?;
            self.answer.bytes.extend(&head.bytes)?;
        }
        let mut sums = Sums::new();
        blocks::add_by_stack(&mut sums)?;
        let mut count = 0;
        for (key, _) in sums.iter() {
            self.defined.define(key.stack(), &mut self.answer)?;
            count += 1;
        }
        let (live, most) = peaks::traced_memory();
        let arenas = GLOBAL.with_state(|state, _| state.arenas.counts().mapped);
        let mut record = self.answer.begin(encode::LIVE);
        // Relaxed: as above.
        record.number(INTERVAL_BYTES.load(Ordering::Relaxed));
        record.number(u64::from(session != 0));
        for number in [live, most, os::resident_set_bytes() as u64, (arenas * ARENA_BYTES) as u64] {
            record.number(number);
        }
        record.number(blocks::lost() + u64::from(stacks::lost()));
        record.number(count);
        for (key, sum) in sums.iter() {
            record.number(u64::from(key.stack().number()));
            record.signed(sum.bytes);
            record.signed(sum.blocks);
        }
        record.end()
    }
}

fn is_later(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// A record's content, for `write!`.
struct TextOf<'record, 'records>(&'record mut Record<'records>);

impl fmt::Write for TextOf<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.raw(text.as_bytes());
        Ok(())
    }
}

/// Writes the statistics as text, and two bytes per pool, which `Watch::heap` describes.
fn answer_heap(out: &mut Records) -> Option<()> {
    let mut stats = Stats::ZERO;
    add_stats(&mut stats);
    let mut record = out.begin(encode::TEXT);
    // `end` tells whether there was memory for all of it.
    let _ = write!(TextOf(&mut record), "{stats}");
    record.end()?;
    let map = HeapMap::take()?;
    let mut record = out.begin(encode::POOLS);
    map.arenas.iter().flat_map(|arena| &arena.pools).for_each(|pool| record.raw(&pool.in_two_bytes()));
    record.end()
}

/// The thread.
extern "C" fn run(work: *mut c_void) -> *mut c_void {
    let _busy = Busy::enter();
    // SAFETY: from `into_raw`, for this thread.
    let work = unsafe { Arc::from_raw(work.cast::<Work>().cast_const()) };
    OwnThread::begin(c"pymalloc-serve");
    let mut clients = [const { None }; CLIENTS_MAX];
    loop {
        wait(&work, &clients);
        // Relaxed: written before the event that was waited for.
        if work.is_stopped.load(Ordering::Relaxed) {
            break;
        }
        for (client, descriptor) in clients.iter_mut().zip(&DESCRIPTORS[1..]) {
            if client.as_mut().is_some_and(|client: &mut Client| client.serve(&work.head).is_none()) {
                // Relaxed: as in `accept`.
                descriptor.store(-1, Ordering::Relaxed);
                *client = None;
            }
        }
        accept(&work.listener, &mut clients);
    }
    DESCRIPTORS[1..].iter().for_each(|descriptor| descriptor.store(-1, Ordering::Relaxed));
    core::ptr::null_mut()
}

fn accept(listener: &UnixListener, clients: &mut [Option<Client>; CLIENTS_MAX]) {
    while let Ok((stream, _)) = listener.accept() {
        // One client too many is closed at once.
        let Some(place) = clients.iter().position(Option::is_none) else { continue };
        clients[place] = Client::new(stream);
        let number = clients[place].as_ref().map_or(-1, |client| client.stream.as_raw_fd());
        // Relaxed: for a child, forked by another thread at that time or a little later.
        DESCRIPTORS[place + 1].store(number, Ordering::Relaxed);
    }
}

/// Sleeps until a client connects, sends or can be sent something, until the server is stopped, or until a client's
/// time is up.
fn wait(work: &Work, clients: &[Option<Client>; CLIENTS_MAX]) {
    let event = |fd: i32, events: i16| libc::pollfd { fd, events, revents: 0 };
    let mut events = [event(-1, 0); CLIENTS_MAX + 2];
    events[0] = event(work.listener.as_raw_fd(), libc::POLLIN);
    events[1] = event(work.wake.as_raw_fd(), libc::POLLIN);
    let now = Instant::now();
    let mut rest = None;
    for (client, place) in clients.iter().zip(&mut events[2..]) {
        let Some(client) = client else { continue };
        let until = client.due.saturating_duration_since(now);
        // A client that may not ask yet is not listened to.
        let is_pausing = !client.is_waiting() && !until.is_zero();
        if client.is_waiting() || is_pausing {
            rest = Some(rest.map_or(until, |rest: Duration| rest.min(until)));
        }
        if !is_pausing {
            *place = event(client.stream.as_raw_fd(), if client.is_waiting() { libc::POLLOUT } else { libc::POLLIN });
        }
    }
    // Rounded up.
    let milliseconds = rest.map_or(-1, |rest| rest.as_millis() as i32 + 1);
    // SAFETY: an array of that many events.
    unsafe { libc::poll(events.as_mut_ptr(), events.len() as libc::nfds_t, milliseconds) };
}
