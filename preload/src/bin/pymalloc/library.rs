//! Finds `libpymalloc.so`, or its hardened twin.

use std::env;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

const NAME: &str = "libpymalloc.so";
/// The installed name of the library that was built with the feature `hardened`.
const HARDENED_NAME: &str = "libpymalloc_hardened.so";

/// Finds the library: the one named, or the one beside this command, as `cargo build` leaves it, or the one in
/// `../lib`, as it is installed. With `hardened`, the hardened one comes first, if it is there.
///
/// # Errors
/// There is none, or `LD_PRELOAD` can't hold its path.
pub(crate) fn find(named: Option<PathBuf>, hardened: bool) -> Result<PathBuf, String> {
    let library = match named {
        Some(path) => path,
        None => {
            let command = env::current_exe().map_err(|error| format!("the path of this command: {error}"))?;
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

/// The value of `LD_PRELOAD`: the library, then what is there already.
pub(crate) fn preload_value(library: &Path) -> OsString {
    let mut value = library.as_os_str().to_owned();
    if let Some(others) = env::var_os("LD_PRELOAD").filter(|others| !others.is_empty()) {
        value.push(":");
        value.push(others);
    }
    value
}
