//! Finds the program, and checks that preloading has an effect on it.

use std::env;
use std::ffi::{CString, OsStr};
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use object::Endianness;
use object::elf::{EM_AARCH64, EM_X86_64, FileHeader64};
use object::read::elf::{FileHeader, ProgramHeader};

/// The most interpreters from a script to a program, as in Linux.
const INTERPRETERS_MAX: usize = 4;
/// How many bytes of a file are read: headers come first.
const HEAD_BYTES: u64 = 64 << 10;

/// The file that `execvp` would run.
///
/// # Errors
/// There is none.
pub(crate) fn find(name: &OsStr) -> Result<PathBuf, String> {
    let missing = || format!("{}: program not found", name.display());
    if name.as_bytes().contains(&b'/') {
        let path = PathBuf::from(name);
        return if path.is_file() { Ok(path) } else { Err(missing()) };
    }
    let folders = env::var_os("PATH").unwrap_or("/usr/local/bin:/usr/bin:/bin".into());
    let mut places = env::split_paths(&folders).map(|folder| folder.join(name));
    places.find(|place| place.is_file() && may_run(place)).ok_or_else(missing)
}

fn may_run(path: &Path) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else {
        return false;
    };
    // SAFETY: a C string.
    unsafe { libc::access(path.as_ptr(), libc::X_OK) == 0 }
}

/// Checks that the dynamic linker preloads this library into the program at `path`.
///
/// # Errors
/// The dynamic linker would preload nothing, or not this library. The text says why.
pub(crate) fn check(path: &Path) -> Result<(), String> {
    let mut path = path.to_owned();
    for _ in 0..=INTERPRETERS_MAX {
        let mut head = Vec::new();
        let file = fs::File::open(&path);
        // A program may be executable and not readable: then the dynamic linker decides.
        let Ok(_) = file.and_then(|file| file.take(HEAD_BYTES).read_to_end(&mut head)) else {
            return Ok(());
        };
        match interpreter(&head) {
            Some(next) => path = next,
            None => return check_elf(&path, &head).and_then(|()| check_rights(&path)),
        }
    }
    Ok(())
}

/// The interpreter that a script names in its first line.
fn interpreter(head: &[u8]) -> Option<PathBuf> {
    let line = head.strip_prefix(b"#!")?.split(|&byte| byte == b'\n').next()?;
    let name = line.split(|byte| b" \t".contains(byte)).find(|word| !word.is_empty())?;
    Some(PathBuf::from(OsStr::from_bytes(name)))
}

fn check_elf(path: &Path, head: &[u8]) -> Result<(), String> {
    let no_effect = |why: &str| Err(format!("{}: {why}, so preloading has no effect", path.display()));
    if !head.starts_with(b"\x7fELF") {
        // Shells run text without `#!`; the kernel knows further formats.
        return Ok(());
    }
    // The headers only: the rest of the file was not read.
    let Ok(elf) = FileHeader64::<Endianness>::parse(head) else {
        return no_effect("not a 64-bit program");
    };
    let headers = elf.endian().and_then(|endian| Ok((endian, elf.program_headers(endian, head)?)));
    let Ok((endian, headers)) = headers else {
        return no_effect("a broken program");
    };
    let machine = if cfg!(target_arch = "x86_64") { EM_X86_64 } else { EM_AARCH64 };
    if elf.e_machine(endian) != machine {
        return no_effect("a program for another processor");
    }
    let Some(linker) = headers.iter().find_map(|header| header.interpreter(endian, head).ok().flatten()) else {
        return no_effect("statically linked");
    };
    if linker.windows(7).any(|name| name == b"ld-musl") {
        return no_effect("linked with musl, and this library is for glibc");
    }
    Ok(())
}

/// Checks that the program does not run with rights that its caller does not have: then nothing is preloaded.
fn check_rights(path: &Path) -> Result<(), String> {
    let Ok(metadata) = fs::metadata(path) else {
        return Ok(());
    };
    // SAFETY: no preconditions.
    let (user, group) = unsafe { (libc::getuid(), libc::getgid()) };
    let set_user = metadata.mode() & libc::S_ISUID != 0 && metadata.uid() != user;
    let set_group = metadata.mode() & libc::S_ISGID != 0 && metadata.gid() != group;
    let Ok(name) = CString::new(path.as_os_str().as_bytes()) else {
        return Ok(());
    };
    // SAFETY: C strings, and no room for a value: only its size is asked for.
    let capabilities =
        unsafe { libc::getxattr(name.as_ptr(), c"security.capability".as_ptr(), std::ptr::null_mut(), 0) };
    if set_user || set_group || (capabilities > 0 && user != 0) {
        return Err(format!("{}: runs with the rights of another, so preloading has no effect", path.display()));
    }
    Ok(())
}
