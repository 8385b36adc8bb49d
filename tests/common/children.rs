//! Tests in processes of their own; also for the tests of object pools.

use std::process::{Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

/// A test that has not ended by then hangs.
pub(crate) const TEST_DEADLINE: Duration = Duration::from_secs(300);

const CHILD: &str = "PYMALLOC_TEST_CHILD";

/// Whether `run_child` started this process.
pub(crate) fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// Runs the body of the test named `test` in a process of its own, where no other test and no test
/// harness allocates meanwhile.
///
/// # Panics
/// When the body fails there.
pub(crate) fn alone(test: &str, body: impl FnOnce()) {
    if is_child() {
        harness_waits();
        return body();
    }
    let output = run_child(test);
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && printed.contains("1 passed"),
        "{}\n{printed}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Waits until libtest's thread, which started this one, waits for its result: on its way there it allocates. It waits for
/// nothing else, since there are two threads and this one holds no lock.
fn harness_waits() {
    #[cfg(target_os = "linux")]
    loop {
        let process = std::process::id();
        // SAFETY: always allowed.
        if unsafe { libc::syscall(libc::SYS_gettid) } == i64::from(process) {
            return;
        }
        let stat = std::fs::read_to_string(format!("/proc/self/task/{process}/stat")).expect("the main thread");
        // The name, in brackets, may hold anything.
        let (_, state) = stat.rsplit_once(')').expect("a state after the name");
        if state.starts_with(" S") {
            return;
        }
        std::thread::yield_now();
    }
    // Elsewhere nobody tells: it gets the time.
    #[cfg(not(target_os = "linux"))]
    std::thread::sleep(Duration::from_millis(100));
}

/// Runs the body of a forked child, which exits with 1 if that panics: a test's thread is its only one, so that it
/// would end with the thread, and as if all were well.
#[cfg(unix)]
pub(crate) fn or_exit<R>(body: impl FnOnce() -> R) -> R {
    // SAFETY: always allowed.
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).unwrap_or_else(|_| unsafe { libc::_exit(1) })
}

/// Runs one test of this binary in a process of its own, where `is_child` is true.
///
/// # Panics
/// When the child hangs.
pub(crate) fn run_child(test: &str) -> Output {
    let mut child = Command::new(std::env::current_exe().expect("an executable"))
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a child");
    let started = Instant::now();
    while child.try_wait().expect("our own child").is_none() {
        if started.elapsed() > TEST_DEADLINE {
            child.kill().expect("our own child");
            let output = child.wait_with_output().expect("our own child");
            panic!("{test} hangs: {output:?}");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    child.wait_with_output().expect("our own child")
}

/// Takes the line away that QEMU adds to what its guest wrote before a signal ended it (`tests/targets.sh`).
pub(crate) fn without_emulators_line(stderr: &mut Vec<u8>) {
    let last_start = stderr.trim_ascii_end().iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
    if stderr[last_start..].starts_with(b"qemu: uncaught target signal") {
        stderr.truncate(last_start);
    }
}

/// Runs `misuse` in a process of its own, which must end by an abort; returns what it printed to stderr.
///
/// In the child, this does not return.
pub(crate) fn abort_of(test: &str, misuse: fn()) -> String {
    String::from_utf8(output_of_abort(test, misuse).stderr).expect("UTF-8")
}

/// As [`abort_of`], and what the process wrote to its standard output, too.
pub(crate) fn output_of_abort(test: &str, misuse: fn()) -> Output {
    if is_child() {
        prepare_to_abort();
        misuse();
        // Not reached, or else the parent sees this status.
        std::process::exit(0);
    }
    let mut output = run_child(test);
    assert!(is_abort(output.status), "{output:?}");
    without_emulators_line(&mut output.stderr);
    output
}

/// Has an abort leave no file behind.
#[cfg(unix)]
pub(crate) fn prepare_to_abort() {
    let no_core_file = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a valid limit.
    let error = unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const no_core_file) };
    assert_eq!(error, 0);
}

/// Has an abort show no window.
#[cfg(windows)]
pub(crate) fn prepare_to_abort() {
    /// `SEM_FAILCRITICALERRORS | SEM_NOGPFAULTERRORBOX`.
    const QUIET: u32 = 3;
    #[link(name = "kernel32")]
    unsafe extern "system" {
        fn SetErrorMode(mode: u32) -> u32;
    }
    // SAFETY: no preconditions.
    unsafe { SetErrorMode(QUIET) };
}

/// Whether a process ended by an abort.
#[cfg(unix)]
pub(crate) fn is_abort(status: ExitStatus) -> bool {
    std::os::unix::process::ExitStatusExt::signal(&status) == Some(libc::SIGABRT)
}

/// Whether a process ended by an abort, which is a fast fail: `STATUS_STACK_BUFFER_OVERRUN` is what it is called.
#[cfg(windows)]
pub(crate) fn is_abort(status: ExitStatus) -> bool {
    status.code() == Some(0xC000_0409_u32.cast_signed())
}
