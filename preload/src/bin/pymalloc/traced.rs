//! `--trace`, `--timeline`, `--serve` and their options. They are checked before the program starts, so that a typing
//! error does not waste hours of its run.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use object::Endianness;
use object::read::elf::ElfFile64;
use object::read::{Object, ObjectSymbol};

#[cfg(feature = "trace")]
use crate::over_time::Files;
use crate::sockets;

/// Without the tracer there is nothing to wait for.
#[cfg(not(feature = "trace"))]
pub(crate) enum Files {}

/// What the command line asks for.
pub(crate) struct Wish {
    pub(crate) profile: Option<PathBuf>,
    pub(crate) flame_graph: Option<PathBuf>,
    pub(crate) timeline: Option<PathBuf>,
    pub(crate) timeline_every: Option<u32>,
    pub(crate) serve: bool,
    pub(crate) at_exit: bool,
    pub(crate) frames: Option<u16>,
    pub(crate) every_bytes: Option<u64>,
}

/// Sets the program's environment so that it is traced as wished. Returns the timeline's files, if one is recorded.
///
/// # Errors
/// The library has no tracer, or a file can't be written.
pub(crate) fn prepare(command: &mut Command, library: &Path, wish: Wish) -> Result<Option<Files>, String> {
    let saves = wish.profile.is_some() || wish.flame_graph.is_some();
    if wish.at_exit && !saves {
        return Err("--trace-exit goes with --trace or --flame-graph".into());
    }
    if !saves && wish.timeline.is_none() && !wish.serve {
        return if wish.frames.is_some() || wish.every_bytes.is_some() {
            Err("--trace-frames and --trace-every go with --trace, --flame-graph, --timeline or --serve".into())
        } else {
            Ok(None)
        };
    }
    check_tracer(library)?;
    let (timeline, raw) = timeline(wish.timeline)?;
    let mut of_every_process = false;
    let files = [
        ("PYMALLOC_TRACE", wish.profile),
        ("PYMALLOC_TRACE_FLAME_GRAPH", wish.flame_graph),
        ("PYMALLOC_TIMELINE", raw),
    ];
    for (variable, file) in files.into_iter().filter_map(|(variable, file)| Some((variable, file?))) {
        let many = file.as_os_str().as_bytes().windows(2).any(|pair| pair == b"%p");
        of_every_process |= many;
        check_writable(&file, many).map_err(|error| format!("{}: {error}", file.display()))?;
        let file = std::path::absolute(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        if file.to_str().is_none() {
            return Err(format!("{}: not UTF-8", file.display()));
        }
        command.env(variable, file);
    }
    if wish.serve {
        command.env("PYMALLOC_SERVE", sockets::make_folder()?.join("%p"));
    }
    if !of_every_process {
        // The program replaces this process, and keeps its number.
        command.env("PYMALLOC_TRACE_PROCESS", std::process::id().to_string());
    }
    if wish.at_exit {
        command.env("PYMALLOC_TRACE_AT", "exit");
    }
    let numbers = [
        ("PYMALLOC_TRACE_FRAMES", wish.frames.map(u64::from)),
        ("PYMALLOC_TRACE_EVERY", wish.every_bytes),
        ("PYMALLOC_TIMELINE_EVERY", wish.timeline_every.map(u64::from)),
    ];
    for (variable, number) in numbers {
        if let Some(number) = number {
            command.env(variable, number.to_string());
        }
    }
    Ok(timeline)
}

/// The timeline's files, and a copy of the name of the raw file, which the program writes.
#[cfg(feature = "trace")]
fn timeline(named: Option<PathBuf>) -> Result<(Option<Files>, Option<PathBuf>), String> {
    let files = named.map(Files::of).transpose()?;
    if let Some(page) = files.as_ref().and_then(Files::page) {
        check_writable(page, false).map_err(|error| format!("{}: {error}", page.display()))?;
    }
    let raw = files.as_ref().map(|files| files.raw.clone());
    Ok((files, raw))
}

#[cfg(not(feature = "trace"))]
fn timeline(named: Option<PathBuf>) -> Result<(Option<Files>, Option<PathBuf>), String> {
    match named {
        Some(_) => Err("--timeline: this command was built without the feature `trace`".into()),
        None => Ok((None, None)),
    }
}

/// Checks that the library has the tracer.
///
/// # Errors
/// It has none.
pub(crate) fn check_tracer(library: &Path) -> Result<(), String> {
    if can_trace(library)? {
        return Ok(());
    }
    Err(format!(
        "{}: built without the tracer; build it with `cargo build --release -p pymalloc-preload --features trace`",
        library.display()
    ))
}

/// Makes the file; or, if each process will have its own, checks that their folder exists.
pub(crate) fn check_writable(file: &Path, many: bool) -> std::io::Result<()> {
    if !many {
        return fs::OpenOptions::new().write(true).create(true).truncate(false).open(file).map(drop);
    }
    let folder = file.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    fs::read_dir(folder).map(drop)
}

/// Whether the library has the tracer: a symbol says so.
fn can_trace(library: &Path) -> Result<bool, String> {
    let bytes = fs::read(library).map_err(|error| format!("{}: {error}", library.display()))?;
    let Ok(elf) = ElfFile64::<Endianness>::parse(&*bytes) else {
        return Err(format!("{}: not a 64-bit library", library.display()));
    };
    Ok(elf.dynamic_symbols().any(|symbol| symbol.name_bytes().is_ok_and(|name| name == b"PYMALLOC_CAN_TRACE")))
}
