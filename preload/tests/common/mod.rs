//! Helpers of the tests: children that run on the library, and proof that they did.
#![allow(dead_code, reason = "every binary that includes this file uses its own part of it")]

use std::ffi::c_void;
use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// A child that has not ended after this time hangs.
const DEADLINE: Duration = Duration::from_secs(120);
const CHILD: &str = "PYMALLOC_PRELOAD_TEST_CHILD";

/// `libpymalloc.so`, as cargo built it for these tests.
pub(crate) fn library() -> PathBuf {
    let folder = command_path().parent().expect("a folder").to_owned();
    let places = [folder.join("deps/libpymalloc.so"), folder.join("libpymalloc.so")];
    // The newest one: `cargo build` and `cargo test` leave it in different places.
    let built = places.into_iter().filter(|place| place.exists());
    built
        .max_by_key(|place| fs::metadata(place).and_then(|found| found.modified()).expect("it exists"))
        .expect("cargo builds the library with the tests")
}

/// The command `pymalloc`.
pub(crate) fn command_path() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_pymalloc"))
}

/// A file name that no other test has, gone when dropped.
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    pub(crate) fn new(name: &str) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("pymalloc-{}-{number}-{name}", std::process::id()));
        let _ = fs::remove_file(&path);
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Runs the command `pymalloc run` with these arguments on the library of these tests; returns its output.
pub(crate) fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(command_path());
    // The library that cargo built for these tests; there may be an older one beside the command.
    output_of(command.arg("run").arg("--library").arg(library()).args(arguments).env_remove("LD_PRELOAD"))
}

/// Panics unless a bad command line was answered in one line that contains `message`, and by status 2.
pub(crate) fn refused(output: &Output, message: &str) {
    let line = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert_eq!(line.matches('\n').count(), 1, "one line: {line:?}");
    assert!(line.starts_with("pymalloc: ") && line.contains(message), "{line:?} does not say {message:?}");
}

/// Runs a command to its end, killing it if it hangs.
pub(crate) fn output_of(command: &mut Command) -> Output {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let pipes = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
    let read = |mut pipe: Box<dyn std::io::Read + Send>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            pipe.read_to_end(&mut bytes).expect("a pipe");
            bytes
        })
    };
    let (stdout, stderr) = (read(Box::new(pipes.0)), read(Box::new(pipes.1)));
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("our own child") {
            break Some(status);
        }
        if started.elapsed() > DEADLINE {
            child.kill().expect("our own child");
            child.wait().expect("our own child");
            break None;
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let (stdout, stderr) = (stdout.join().expect("it reads"), stderr.join().expect("it reads"));
    let status = status.unwrap_or_else(|| panic!("{command:?} hangs: {}", String::from_utf8_lossy(&stderr)));
    Output { status, stdout, stderr }
}

/// Runs a command on the library; returns the output, and the lines that its processes reported when they exited.
pub(crate) fn preloaded(command: &mut Command) -> (Output, Vec<String>) {
    let report = Scratch::new("report");
    let output = output_of(command.env("LD_PRELOAD", library()).env("PYMALLOC_REPORT", &report.0));
    let lines = fs::read_to_string(&report.0).unwrap_or_default().lines().map(str::to_owned).collect();
    (output, lines)
}

/// Whether a line of a report shows that the library served the process.
pub(crate) fn served(line: &str) -> bool {
    allocations(line) > 0
}

/// The least number of allocations, from a line of a report.
pub(crate) fn allocations(line: &str) -> usize {
    let count = line.strip_suffix(" allocations").and_then(|rest| rest.rsplit(' ').next()).expect("a line of a report");
    count.parse().expect("a number")
}

pub(crate) fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// A command that runs one test of this binary again, where `is_child` is true.
pub(crate) fn child(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("an executable"));
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(CHILD, "1");
    command
}

/// Runs the body of the test named `test` in a process of its own on the library.
///
/// # Panics
/// When the body fails there, or the library did not serve it.
pub(crate) fn on_library(test: &str, body: impl FnOnce()) {
    on_library_with(test, &[], body);
}

/// [`on_library`] with variables in the child's environment.
pub(crate) fn on_library_with(test: &str, variables: &[(&str, &str)], body: impl FnOnce()) {
    if is_child() {
        assert_served();
        return body();
    }
    let (output, report) = preloaded(child(test).envs(variables.iter().copied()));
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && printed.contains("1 passed"),
        "{}\n{printed}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(report.iter().any(|line| served(line)), "the library did not serve the child: {report:?}");
}

/// Checks that this process's malloc is the library's, by the size of a block: glibc's blocks have other sizes.
pub(crate) fn assert_served() {
    // SAFETY: a block whose size is read, and which is freed.
    unsafe {
        let block = libc::malloc(black_box(32));
        assert_eq!(libc::malloc_usable_size(block), 32, "malloc is not the library's");
        libc::free(black_box(block));
    }
}

/// `errno`.
pub(crate) fn errno() -> i32 {
    // SAFETY: libc's own thread-local.
    unsafe { *libc::__errno_location() }
}

pub(crate) fn set_errno(errno: i32) {
    // SAFETY: libc's own thread-local.
    unsafe { *libc::__errno_location() = errno }
}

/// The process's definition of a symbol.
pub(crate) fn symbol(name: &str) -> *mut c_void {
    let name = std::ffi::CString::new(name).expect("no null byte");
    // SAFETY: a C string.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    assert!(!found.is_null(), "{name:?} is not there");
    found
}

/// Compiles a program of `tests/c` or `tests/cxx`; `None`, with a message, if there is no compiler.
pub(crate) fn compile(source: &str, options: &[&str]) -> Option<Scratch> {
    let (compiler, standard) = if source.ends_with(".cpp") { ("c++", "-std=c++17") } else { ("cc", "-D_GNU_SOURCE") };
    if Command::new(compiler).arg("--version").output().is_err() {
        eprintln!("SKIPPED: {source} was not tested, because there is no compiler `{compiler}` on this machine");
        return None;
    }
    let program = Scratch::new(source);
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let path = ["c", "cxx"].map(|folder| tests.join(folder).join(source)).into_iter().find(|path| path.exists());
    let compiled = output_of(
        Command::new(compiler)
            .args([standard, "-O2", "-fsized-deallocation", "-Wno-mismatched-new-delete", "-pthread"])
            .arg(path.expect("a source of ours"))
            .arg("-o")
            .arg(&program.0)
            .args(options)
            .arg("-ldl"),
    );
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    Some(program)
}
