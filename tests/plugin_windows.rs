//! A library with an allocator of its own, on Windows: opened, closed while its threads run, and there when the process
//! ends, at which Windows ends all other threads first, wherever they are.
#![cfg(all(windows, target_arch = "x86_64", not(pymalloc_bypass)))]

use std::env;
use std::ffi::{CStr, c_void};
use std::mem::transmute;
use std::os::windows::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

const COUNT: u64 = 10_000;
const CHILD: &str = "PYMALLOC_TEST_CHILD";

#[link(name = "kernel32")]
unsafe extern "system" {
    fn LoadLibraryW(path: *const u16) -> *mut c_void;
    fn GetModuleHandleW(path: *const u16) -> *mut c_void;
    fn GetProcAddress(module: *mut c_void, name: *const i8) -> *mut c_void;
    fn FreeLibrary(module: *mut c_void) -> i32;
}

/// The library: where `PYMALLOC_PLUGIN` says, or built beside what cargo built for this program.
fn library() -> PathBuf {
    if let Some(built) = env::var_os("PYMALLOC_PLUGIN") {
        return built.into();
    }
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plugin/Cargo.toml");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("plugin");
    let target = if cfg!(target_env = "msvc") { "x86_64-pc-windows-msvc" } else { "x86_64-pc-windows-gnu" };
    let built = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--quiet", "--locked", "--target", target, "--manifest-path"])
        .arg(manifest)
        .arg("--target-dir")
        .arg(&folder)
        .status()
        .expect("cargo is there");
    assert!(built.success());
    folder.join(target).join("debug/plugin.dll")
}

fn wide(path: &Path) -> Vec<u16> {
    path.as_os_str().encode_wide().chain([0]).collect()
}

/// An opened library.
#[derive(Clone, Copy)]
struct Opened(*mut c_void);

// SAFETY: the loader's functions may be called by any thread.
unsafe impl Send for Opened {}
// SAFETY: as above.
unsafe impl Sync for Opened {}

impl Opened {
    fn open(path: &Path) -> Self {
        // SAFETY: a path that ends in a zero; the library runs nothing but the allocator's registrations.
        let module = unsafe { LoadLibraryW(wide(path).as_ptr()) };
        assert!(!module.is_null(), "{path:?}: {}", std::io::Error::last_os_error());
        Self(module)
    }

    fn function(self, name: &CStr) -> *mut c_void {
        // SAFETY: an opened library, and a name.
        let function = unsafe { GetProcAddress(self.0, name.as_ptr().cast()) };
        assert!(!function.is_null(), "{name:?}");
        function
    }

    fn sum(self, count: u64) -> u64 {
        // SAFETY: the type that the function has.
        unsafe { transmute::<*mut c_void, extern "C" fn(u64) -> u64>(self.function(c"plugin_sum"))(count) }
    }

    fn hold(self, count: u64) {
        // SAFETY: the type that the function has.
        unsafe { transmute::<*mut c_void, extern "C" fn(u64)>(self.function(c"plugin_hold"))(count) }
    }

    fn blocks(self) -> usize {
        // SAFETY: the type that the function has.
        unsafe { transmute::<*mut c_void, extern "C" fn() -> usize>(self.function(c"plugin_blocks"))() }
    }

    fn close(self) {
        // SAFETY: opened once for each call.
        assert_ne!(unsafe { FreeLibrary(self.0) }, 0);
    }
}

fn is_loaded(path: &Path) -> bool {
    // SAFETY: a path that ends in a zero.
    !unsafe { GetModuleHandleW(wide(path).as_ptr()) }.is_null()
}

#[test]
fn a_library_that_allocated_stays_although_it_is_closed() {
    let path = library();
    let opened = Opened::open(&path);
    let (used, closed) = (Barrier::new(3), Barrier::new(3));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let sum = opened.sum(COUNT);
                used.wait();
                closed.wait();
                assert_eq!(sum, COUNT * (COUNT + 1) / 2);
                // Its end calls the library's TLS callbacks.
            });
        }
        used.wait();
        opened.close();
        let found = is_loaded(&path);
        closed.wait();
        assert!(found, "it is to stay while threads are left that used it");
    });
    assert!(is_loaded(&path));
    let again = Opened::open(&path);
    let before = again.blocks();
    assert_eq!(again.sum(COUNT), COUNT * (COUNT + 1) / 2);
    assert_eq!(again.blocks(), before);
    again.close();
}

#[test]
fn what_a_library_frees_at_the_process_end_does_not_wait_for_threads_that_are_gone() {
    const NAME: &str = "what_a_library_frees_at_the_process_end_does_not_wait_for_threads_that_are_gone";
    let path = library();
    if env::var_os(CHILD).is_some() {
        let opened = Opened::open(&path);
        opened.hold(COUNT);
        for _ in 0..3 {
            // Many blocks at once: the slow paths are gone through.
            thread::spawn(move || while opened.sum(COUNT) != 0 {});
        }
        thread::sleep(Duration::from_millis(50));
        std::process::exit(7);
    }
    for _ in 0..10 {
        let output = Command::new(env::current_exe().expect("an executable"))
            .args(["--exact", NAME, "--nocapture", "--test-threads=1"])
            .envs([(CHILD, "1".as_ref()), ("PYMALLOC_PLUGIN", path.as_os_str())])
            .output()
            .expect("a child");
        let printed = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(7), "{printed}");
        assert!(printed.contains("plugin: 10000 blocks freed at the end, and a sum of 50005000"), "{printed}");
    }
}
