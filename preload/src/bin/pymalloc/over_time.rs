//! Memory over time. `run --timeline` waits for the program, and makes the page when it has ended, in whatever way.
//! `timeline` shows a recording.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use pymalloc_core::trace::{By, Recording, Snapshot};

/// Where a timeline goes.
pub(crate) struct Files {
    /// The file that the program writes.
    pub(crate) raw: PathBuf,
    /// The page that is made of it; the file is removed then.
    page: Option<PathBuf>,
}

impl Files {
    /// A page, if the name ends in `.html`; otherwise the recording itself.
    ///
    /// # Errors
    /// The name asks for a page for each process.
    pub(crate) fn of(named: PathBuf) -> Result<Self, String> {
        if named.extension().is_none_or(|extension| extension != "html") {
            return Ok(Self { raw: named, page: None });
        }
        if named.to_string_lossy().contains("%p") {
            return Err("--timeline: with %p, only recordings can be saved (name them `%p.timeline`); \
                        `pymalloc timeline` makes a page of each"
                .into());
        }
        let mut raw = OsString::from(&named);
        raw.push(".timeline");
        Ok(Self { raw: raw.into(), page: Some(named) })
    }

    pub(crate) fn page(&self) -> Option<&Path> {
        self.page.as_deref()
    }
}

/// The program's process, for the handler; 0 before it exists.
static PROGRAM: AtomicI32 = AtomicI32::new(0);

/// Passes on to the program a signal that was sent to this command alone.
extern "C" fn pass_on(signal: libc::c_int) {
    // Relaxed: only a number.
    let program = PROGRAM.load(Ordering::Relaxed);
    if program > 0 {
        // SAFETY: plain numbers.
        unsafe { libc::kill(program, signal) };
    }
}

fn on_signal(signal: libc::c_int, handler: libc::sighandler_t) {
    // SAFETY: a function that may run at any time, or one of the system's constants.
    unsafe { libc::signal(signal, handler) };
}

/// Runs the program in a process of its own, and makes the page once it has ended. Returns the program's exit status;
/// if a signal ended the program, the same signal ends this process.
///
/// # Errors
/// The program could not be started.
pub(crate) fn run(mut command: Command, files: &Files) -> Result<ExitCode, String> {
    // SAFETY: this process has one thread.
    let program = unsafe { libc::fork() };
    if program < 0 {
        return Err(std::io::Error::last_os_error().to_string());
    }
    if program == 0 {
        if command.get_envs().any(|(name, _)| name == "PYMALLOC_TRACE_PROCESS") {
            command.env("PYMALLOC_TRACE_PROCESS", std::process::id().to_string());
        }
        let error = command.exec();
        eprintln!("pymalloc: {}: {error}", command.get_program().display());
        // SAFETY: ends this copy at once.
        unsafe { libc::_exit(2) };
    }
    // Relaxed: as in `pass_on`.
    PROGRAM.store(program, Ordering::Relaxed);
    // The terminal sends these to both processes.
    for signal in [libc::SIGINT, libc::SIGQUIT] {
        on_signal(signal, libc::SIG_IGN);
    }
    let handler: extern "C" fn(libc::c_int) = pass_on;
    for signal in [libc::SIGTERM, libc::SIGHUP, libc::SIGUSR1, libc::SIGUSR2] {
        on_signal(signal, handler as libc::sighandler_t);
    }
    let mut status = 0;
    // SAFETY: a place for the status of our own child.
    while unsafe { libc::waitpid(program, &raw mut status, 0) } < 0 {}
    if let Err(error) = finish(files) {
        eprintln!("pymalloc: {error}");
    }
    if libc::WIFSIGNALED(status) {
        die_of(libc::WTERMSIG(status));
    }
    Ok(ExitCode::from(libc::WEXITSTATUS(status) as u8))
}

fn die_of(signal: libc::c_int) {
    on_signal(signal, libc::SIG_DFL);
    // SAFETY: plain numbers. This process writes no core file; the program has written its own, if any.
    unsafe {
        libc::setrlimit(libc::RLIMIT_CORE, &libc::rlimit { rlim_cur: 0, rlim_max: 0 });
        libc::raise(signal);
    }
}

/// Makes the page, and prints a line about it.
fn finish(files: &Files) -> Result<(), String> {
    let Some(page) = &files.page else { return Ok(()) };
    let kept = |error: &dyn std::fmt::Display| format!("{}: {error}", files.raw.display());
    let recording = Recording::load(&files.raw).map_err(|error| kept(&error))?;
    recording.save_page(page).map_err(|error| format!("{}: {error}", page.display()))?;
    let _ = std::fs::remove_file(&files.raw);
    let peak = recording.moments()[recording.peak_index()].clone();
    let (samples, seconds) = (recording.moments().len(), peak.time.as_secs_f64());
    eprintln!(
        "pymalloc: {}: {samples} samples; at the peak, after {seconds:.2} s, {} bytes live",
        page.display(),
        peak.bytes_live
    );
    Ok(())
}

/// The arguments of `pymalloc timeline`.
#[derive(clap::Args)]
pub(crate) struct Show {
    /// The file that `pymalloc run --timeline` or `trace::Timeline` recorded; the program may still run
    file: PathBuf,
    /// Make a page for a browser instead
    #[arg(long, value_name = "FILE.html")]
    html: Option<PathBuf>,
    /// Show what was allocated after SECONDS …
    #[arg(long, value_name = "SECONDS", requires = "to", value_parser = seconds)]
    from: Option<Duration>,
    /// … and not freed by then
    #[arg(long, value_name = "SECONDS", requires = "from", value_parser = seconds)]
    to: Option<Duration>,
    /// Show what was live after SECONDS
    #[arg(long, value_name = "SECONDS", conflicts_with_all = ["from", "to"], value_parser = seconds)]
    at: Option<Duration>,
    /// Functions to show
    #[arg(long, value_name = "NUMBER", default_value_t = 20)]
    top: usize,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    Duration::try_from_secs_f64(number).map_err(|error| error.to_string())
}

/// Shows a recording.
///
/// # Errors
/// It can't be read, or the page can't be written.
pub(crate) fn show(show: &Show) -> Result<(), String> {
    let recording = Recording::load(&show.file).map_err(|error| format!("{}: {error}", show.file.display()))?;
    if let Some(page) = &show.html {
        return recording.save_page(page).map_err(|error| format!("{}: {error}", page.display()));
    }
    let time = |index: usize| recording.moments()[index].time.as_secs_f64();
    let text = if let (Some(from), Some(to)) = (show.from, show.to) {
        if from > to {
            return Err("--from is after --to".into());
        }
        let (from, to) = (recording.index_at(from), recording.index_at(to));
        let title = format!("Allocated after {:.2} s and not freed by {:.2} s", time(from), time(to));
        table(&title, &recording.allocated_in(from..to), show.top)
    } else if let Some(at) = show.at {
        let index = recording.index_at(at);
        table(&format!("Live after {:.2} s", time(index)), &recording.live_at(index), show.top)
    } else {
        recording.to_string()
    };
    print(&text)
}

fn table(title: &str, snapshot: &Snapshot, top: usize) -> String {
    let (bytes, blocks) = (snapshot.bytes(), snapshot.blocks());
    format!("{title}: {bytes} bytes in {blocks} blocks\n{}", snapshot.statistics(By::Function).top(top))
}

/// Writes to stdout; it is no error if the reader has gone.
fn print(text: &str) -> Result<(), String> {
    use std::io::Write;
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.to_string()),
        _ => Ok(()),
    }
}
