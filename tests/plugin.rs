//! A library with an allocator of its own is opened, used by threads, and closed while they run. When the threads end,
//! they still call into it.
#![cfg(all(
    target_os = "linux",
    target_env = "gnu",
    any(target_arch = "x86_64", target_arch = "aarch64"),
    not(any(pymalloc_bypass, feature = "__raw"))
))]

use std::env;
use std::ffi::{CStr, CString, c_void};
use std::mem::transmute;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::ptr::NonNull;
use std::sync::{Barrier, mpsc};
use std::thread;

const COUNT: u64 = 10_000;

/// Builds the library for the target of this program, next to this program's own files.
fn library() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plugin/Cargo.toml");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("plugin");
    let target = format!("{}-unknown-linux-gnu", env::consts::ARCH);
    let cargo = env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let built = Command::new(cargo)
        .args(["build", "--quiet", "--locked", "--target", &target, "--manifest-path"])
        .arg(manifest)
        .arg("--target-dir")
        .arg(&folder)
        // The flags that this program was built with (those of a tool, perhaps) are not meant for a library.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .status()
        .expect("cargo is there");
    assert!(built.success());
    folder.join(target).join("debug/libplugin.so")
}

/// A number of copies of a library, each of which is a library of its own.
fn copies(library: &Path, count: usize) -> Vec<CString> {
    let copy = |number| {
        let path = library.with_file_name(format!("libplugin-{number}.so"));
        std::fs::copy(library, &path).expect("room for a copy");
        CString::new(path.into_os_string().into_encoded_bytes()).expect("no zero byte")
    };
    (0..count).map(copy).collect()
}

/// An opened library.
#[derive(Clone, Copy)]
struct Opened(NonNull<c_void>);

// SAFETY: the loader's functions may be called by any thread.
unsafe impl Send for Opened {}
// SAFETY: as above.
unsafe impl Sync for Opened {}

impl Opened {
    /// Opens a library; `None` if it does not exist, or, with `RTLD_NOLOAD`, if it is not loaded.
    fn open(path: &CStr, flags: libc::c_int) -> Option<Self> {
        // SAFETY: the library runs nothing but the allocator's registrations.
        NonNull::new(unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | flags) }).map(Self)
    }

    fn function(self, name: &CStr) -> NonNull<c_void> {
        // SAFETY: an opened library, and a name.
        NonNull::new(unsafe { libc::dlsym(self.0.as_ptr(), name.as_ptr()) }).expect("it has the function")
    }

    fn sum(self, count: u64) -> u64 {
        // SAFETY: the function has this type.
        unsafe { transmute::<NonNull<c_void>, extern "C" fn(u64) -> u64>(self.function(c"plugin_sum"))(count) }
    }

    fn blocks(self) -> usize {
        // SAFETY: the function has this type.
        unsafe { transmute::<NonNull<c_void>, extern "C" fn() -> usize>(self.function(c"plugin_blocks"))() }
    }

    fn close(self) {
        // SAFETY: opened once for each call.
        assert_eq!(unsafe { libc::dlclose(self.0.as_ptr()) }, 0);
    }
}

#[test]
fn a_library_that_allocated_stays_until_its_last_thread_has_ended_and_is_found_again() {
    let path = CString::new(library().into_os_string().into_encoded_bytes()).expect("no zero byte");
    let opened = Opened::open(&path, 0).expect("it was built");
    let (used, closed) = (Barrier::new(3), Barrier::new(3));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let sum = opened.sum(COUNT);
                used.wait();
                closed.wait();
                assert_eq!(sum, COUNT * (COUNT + 1) / 2);
                // The thread's end calls the key's destructor, which is in the library.
            });
        }
        used.wait();
        opened.close();
        let found = Opened::open(&path, libc::RTLD_NOLOAD);
        closed.wait();
        found.expect("it is loaded while threads that used it still run").close();
    });
    let again = Opened::open(&path, libc::RTLD_NOLOAD).expect("it is loaded still");
    let before = again.blocks();
    assert_eq!(again.sum(COUNT), COUNT * (COUNT + 1) / 2);
    assert_eq!(again.blocks(), before);
    again.close();
}

/// As with the system's allocator, nothing makes the library's thread-locals *static*.
#[test]
fn many_libraries_with_large_thread_locals_are_opened_while_threads_run() {
    const COPIES: usize = 16;
    let started = Barrier::new(2);
    let library = library();
    let (libraries, used) = thread::scope(|scope| {
        // This thread runs already when the libraries are opened, and uses them all.
        let (to, from) = mpsc::channel();
        let started = &started;
        let early = scope.spawn(move || {
            started.wait();
            let libraries: Vec<Opened> = from.recv().expect("they were opened");
            libraries.into_iter().map(|library| library.sum(COUNT)).collect::<Vec<_>>()
        });
        started.wait();
        let open = |path: &CString| Opened::open(path, 0).unwrap_or_else(|| panic!("{path:?} cannot be opened"));
        let libraries: Vec<_> = copies(&library, COPIES).iter().map(open).collect();
        to.send(libraries.clone()).expect("it waits");
        (libraries, early.join().expect("it does not panic"))
    });
    assert_eq!(used, [COUNT * (COUNT + 1) / 2; COPIES]);
    for library in libraries {
        assert_eq!(library.sum(COUNT), COUNT * (COUNT + 1) / 2);
        library.close();
    }
}
