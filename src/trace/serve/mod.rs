//! Tells clients at a socket what is live: [`serve`] and its client, [`Watch`].
//!
//! # Protocol
//! The server greets with [`GREETING`]. The client sends one byte, [`ASKS_LIVE`] or [`ASKS_HEAP`], and reads records
//! (`record/encode`) up to one of the kind `END`. They define the stacks and modules that this client does not know
//! yet, and then tell what is live; or they are the heap's statistics and its pools. Any other byte ends the
//! connection.

mod client;
mod server;

use core::fmt;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use crate::os::fork;
use crate::trace::record::state::Busy;

pub use client::{Look, Watch, WatchError};
pub(in crate::trace) use server::close_in_child;

pub(super) const GREETING: &[u8; 17] = b"pymalloc serve 1\n";
pub(super) const ASKS_LIVE: u8 = b'l';
pub(super) const ASKS_HEAP: u8 = b'h';

/// Why [`serve`] failed.
#[derive(Debug)]
#[non_exhaustive]
pub enum ServeError {
    /// The process serves already.
    AlreadyServing,
    /// The socket could not be made, or the thread not started.
    Io(io::Error),
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AlreadyServing => write!(f, "the process serves already"),
            Self::Io(error) => write!(f, "the socket: {error}"),
        }
    }
}

impl core::error::Error for ServeError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            Self::AlreadyServing => None,
        }
    }
}

/// A server that [`serve`] started; it runs until this is dropped.
///
/// # Fork
/// A forked child does not serve, as [`is_serving`](Self::is_serving) says; it may start a server of its own. Its
/// parent goes on serving.
#[derive(Debug)]
#[must_use = "the server ends when this is dropped"]
pub struct Server {
    running: Option<server::Running>,
    path: PathBuf,
    /// The process that serves, by its [`fork::generation`].
    process: u32,
}

/// Starts a server at a socket, which tells `pymalloc top PATH` or a [`Watch`] what is live.
///
/// This makes the socket, and replaces one that a program left at the path when it ended. Only the program's user and
/// root can connect: the socket has mode `0600`, and other users are turned away. A thread of its own answers, with all
/// signals blocked. It never waits for a client. It serves at most 8 clients, and drops one that does not read within 5
/// seconds or sends anything except questions. The client looks up the names.
///
/// The server tells what the tracer knows, so [`start`](crate::trace::start) the tracer before.
///
/// ```
/// # #[global_allocator] static GLOBAL: pymalloc::Pymalloc = pymalloc::Pymalloc::new();
/// use pymalloc::trace::{self, By, Watch};
///
/// # let folder = std::env::temp_dir().join(format!("pymalloc-serve-{}", std::process::id()));
/// # std::fs::create_dir_all(&folder)?;
/// # std::env::set_current_dir(&folder)?;
/// let session = trace::Session::start(trace::Config::new())?;
/// let server = trace::serve("memory.sock")?;
///
/// // As a rule, in another process.
/// let look = Watch::connect("memory.sock")?.look()?;
/// println!("{} bytes live\n{}", look.bytes_live, look.snapshot.statistics(By::Function).top(10));
/// # drop((server, session));
/// # std::fs::remove_dir_all(&folder)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// If the process serves already, or if the system refuses the socket or the thread.
pub fn serve(path: impl AsRef<Path>) -> Result<Server, ServeError> {
    let _busy = Busy::enter();
    let path = std::path::absolute(path.as_ref()).map_err(ServeError::Io)?;
    let running = server::Running::start(&path)?;
    Ok(Server { running: Some(running), path, process: fork::generation() })
}

impl Server {
    /// The path of the socket.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the calling process serves: a forked child does not.
    pub fn is_serving(&self) -> bool {
        self.process == fork::generation()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _busy = Busy::enter();
        let Some(running) = self.running.take() else { return };
        if self.process != fork::generation() {
            // The thread and the socket's name are the parent's; the child's descriptors are closed already.
            return core::mem::forget(running);
        }
        running.stop();
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The user at the other end of a socket.
fn peer_user(socket: &impl AsRawFd) -> Option<u32> {
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut bytes = size_of::<libc::ucred>() as libc::socklen_t;
    let place = (&raw mut peer).cast();
    // SAFETY: a place for the answer, of that many bytes.
    let error =
        unsafe { libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED, place, &raw mut bytes) };
    (error == 0).then_some(peer.uid)
}
