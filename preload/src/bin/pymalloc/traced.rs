//! `--trace` and what belongs to it: checked here, so that hours of a program's run are not lost to a typing error.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use object::Endianness;
use object::read::elf::ElfFile64;
use object::read::{Object, ObjectSymbol};

/// What the command line asks for.
pub(crate) struct Wish {
    pub(crate) profile: Option<PathBuf>,
    pub(crate) flame_graph: Option<PathBuf>,
    pub(crate) at_exit: bool,
    pub(crate) frames: Option<u16>,
    pub(crate) every_bytes: Option<u64>,
}

/// Has the program traced as wished.
///
/// # Errors
/// The library has no tracer, or a file can't be written.
pub(crate) fn prepare(command: &mut Command, library: &Path, wish: Wish) -> Result<(), String> {
    let files = [("PYMALLOC_TRACE", wish.profile), ("PYMALLOC_TRACE_FLAME_GRAPH", wish.flame_graph)];
    if files.iter().all(|(_, file)| file.is_none()) {
        return if wish.at_exit || wish.frames.is_some() || wish.every_bytes.is_some() {
            Err("--trace-exit, --trace-frames and --trace-every go with --trace or --flame-graph".into())
        } else {
            Ok(())
        };
    }
    check_tracer(library)?;
    let mut of_every_process = false;
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
    if !of_every_process {
        // The program takes this process over.
        command.env("PYMALLOC_TRACE_PROCESS", std::process::id().to_string());
    }
    if wish.at_exit {
        command.env("PYMALLOC_TRACE_AT", "exit");
    }
    let numbers = [("PYMALLOC_TRACE_FRAMES", wish.frames.map(u64::from)), ("PYMALLOC_TRACE_EVERY", wish.every_bytes)];
    for (variable, number) in numbers {
        if let Some(number) = number {
            command.env(variable, number.to_string());
        }
    }
    Ok(())
}

/// # Errors
/// The library has no tracer.
pub(crate) fn check_tracer(library: &Path) -> Result<(), String> {
    if can_trace(library)? {
        return Ok(());
    }
    Err(format!(
        "{}: built without the tracer; build it with `cargo build --release -p pymalloc-preload --features trace`",
        library.display()
    ))
}

/// Makes the file, or looks for its folder if there will be one for each process.
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
