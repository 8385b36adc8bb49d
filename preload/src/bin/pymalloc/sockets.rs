//! Where the sockets of serving programs are: in a folder of the user's own, one socket per process, named by its
//! number.

use std::env;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::PathBuf;

/// Where the folder may be.
fn places() -> Vec<PathBuf> {
    // SAFETY: no preconditions.
    let user = unsafe { libc::geteuid() };
    let of_session = env::var_os("XDG_RUNTIME_DIR").filter(|folder| !folder.is_empty()).map(PathBuf::from);
    let of_session = of_session.filter(|folder| folder.is_absolute()).map(|folder| folder.join("pymalloc"));
    of_session.into_iter().chain([PathBuf::from(format!("/tmp/pymalloc-{user}"))]).collect()
}

/// Makes the folder, which only its user can enter.
///
/// # Errors
/// It can't be made, or it belongs to another user or is open to one.
pub(crate) fn make_folder() -> Result<PathBuf, String> {
    let mut refused = String::new();
    for folder in places() {
        let made = DirBuilder::new().mode(0o700).create(&folder);
        match fs::symlink_metadata(&folder) {
            // SAFETY: no preconditions.
            Ok(found) if found.is_dir() && found.uid() == unsafe { libc::geteuid() } && found.mode() & 0o077 == 0 => {
                return Ok(folder);
            }
            Ok(_) => refused = format!("{}: not a folder of this user's alone", folder.display()),
            Err(error) => refused = format!("{}: {}", folder.display(), made.err().unwrap_or(error)),
        }
    }
    Err(refused)
}

/// The socket of a process, or the one named.
///
/// # Errors
/// The process does not serve.
#[cfg(feature = "trace")]
pub(crate) fn find(named: &str) -> Result<PathBuf, String> {
    let Ok(process) = named.parse::<u32>() else { return Ok(PathBuf::from(named)) };
    let sockets = places().into_iter().map(|folder| folder.join(process.to_string()));
    sockets.into_iter().find(|socket| socket.exists()).ok_or_else(|| {
        format!(
            "process {process} does not serve: start it by `pymalloc run --serve` (a process that it forks does not), \
             or name the path of its `trace::serve`"
        )
    })
}
