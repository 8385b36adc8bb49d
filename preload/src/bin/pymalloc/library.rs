//! Where `libpymalloc.so` is, and its hardened twin.

use std::env;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

const NAME: &str = "libpymalloc.so";
/// What the library built with the feature `hardened` is called where it is installed.
const HARDENED_NAME: &str = "libpymalloc_hardened.so";

/// The library: the one named, or that beside this command, as `cargo build` leaves it, or in `../lib`, as it is
/// installed. If it is to be `hardened`, the hardened one, if that is there.
///
/// # Errors
/// There is none, or its path can't be in `LD_PRELOAD`.
pub(crate) fn find(named: Option<PathBuf>, hardened: bool) -> Result<PathBuf, String> {
    let library = match named {
        Some(path) => path,
        None => {
            let command = env::current_exe().map_err(|error| format!("where am I? {error}"))?;
            let folder = command.parent().unwrap_or(&command);
            let places = [folder.join(NAME), folder.join("deps").join(NAME), folder.join("../lib").join(NAME)];
            let hardened = if hardened { hardened_places(folder) } else { Vec::new() };
            hardened.into_iter().chain(places).find(|place| place.exists()).ok_or(format!(
                "{NAME} is not in {}; build it with `cargo build --release -p pymalloc-preload`",
                folder.display()
            ))?
        }
    };
    let library = library.canonicalize().map_err(|error| format!("{}: {error}", library.display()))?;
    if library.as_os_str().as_bytes().iter().any(|byte| b" :\t\n".contains(byte)) {
        return Err(format!("{}: LD_PRELOAD takes no path with a space or a colon in it", library.display()));
    }
    Ok(library)
}

/// Where the hardened library may be: installed, or below `target/hardened`, where it is built.
fn hardened_places(folder: &Path) -> Vec<PathBuf> {
    let mut places = vec![folder.join(HARDENED_NAME), folder.join("../lib").join(HARDENED_NAME)];
    if let (Some(profile), Some(target)) = (folder.file_name(), folder.parent()) {
        places.push(target.join("hardened").join(profile).join(NAME));
    }
    places
}

/// The value of `LD_PRELOAD`: the library before what is there already.
pub(crate) fn preload_value(library: &Path) -> OsString {
    let mut value = library.as_os_str().to_owned();
    if let Some(others) = env::var_os("LD_PRELOAD").filter(|others| !others.is_empty()) {
        value.push(":");
        value.push(others);
    }
    value
}
