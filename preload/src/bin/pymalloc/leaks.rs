//! `--leaks` and `--heapsnapshot`, checked before the program starts.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::traced::{check_tracer, check_writable};

/// What the command line asks for.
pub(crate) struct Wish {
    pub(crate) leaks: bool,
    pub(crate) snapshot: Option<PathBuf>,
    pub(crate) signal: Option<String>,
    /// Whether only a sample of the allocations is traced.
    pub(crate) samples: bool,
}

/// Sets the program's environment so that the library saves what is wished for.
///
/// # Errors
/// The library has no tracer, a file can't be written, or options don't go together.
pub(crate) fn prepare(command: &mut Command, library: &Path, wish: Wish) -> Result<(), String> {
    if wish.signal.is_some() && wish.snapshot.is_none() {
        return Err("--heapsnapshot-signal goes with --heapsnapshot".into());
    }
    if !wish.leaks && wish.snapshot.is_none() {
        return Ok(());
    }
    if wish.samples {
        return Err("--leaks and --heapsnapshot need every allocation, so they don't go with --trace-every".into());
    }
    check_tracer(library)?;
    let mut of_every_process = false;
    if let Some(file) = wish.snapshot {
        of_every_process = file.as_os_str().as_bytes().windows(2).any(|pair| pair == b"%p");
        check_writable(&file, of_every_process).map_err(|error| format!("{}: {error}", file.display()))?;
        let file = std::path::absolute(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        command.env("PYMALLOC_HEAPSNAPSHOT", file);
    }
    if wish.leaks {
        command.env("PYMALLOC_LEAKS", "1");
    }
    if let Some(name) = wish.signal {
        command.env("PYMALLOC_HEAPSNAPSHOT_SIGNAL", signal_of(&name)?.to_string());
    }
    if !of_every_process {
        // The program replaces this process, and keeps its number.
        command.env("PYMALLOC_TRACE_PROCESS", std::process::id().to_string());
    }
    Ok(())
}

/// The number of a signal that programs use for their own purposes, by its name with or without `SIG`.
fn signal_of(name: &str) -> Result<i32, String> {
    match name.strip_prefix("SIG").unwrap_or(name) {
        "USR1" => Ok(libc::SIGUSR1),
        "USR2" => Ok(libc::SIGUSR2),
        "HUP" => Ok(libc::SIGHUP),
        "QUIT" => Ok(libc::SIGQUIT),
        _ => Err(format!("--heapsnapshot-signal: {name} is none of USR1, USR2, HUP, QUIT")),
    }
}
