//! What the library writes when a program ends. Whatever the program did to its descriptors, its environment and its
//! rights, its own files stay as they are, and the library's messages about its files are true.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::{Scratch, command_path, compile, library, output_of, served};

/// More files than there are descriptors below the kept ones.
const FILES: usize = 710;

/// A folder of its own, gone when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = Scratch::new(name).0.clone();
        fs::create_dir_all(&folder).expect("a folder");
        Self(folder)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("UTF-8")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn command_on_library(options: &[&str], program: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(command_path());
    command
        .arg("run")
        .arg("--library")
        .arg(library())
        .args(options)
        .arg("--")
        .arg(program)
        .args(arguments)
        .env_remove("LD_PRELOAD");
    command
}

fn run(options: &[&str], program: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = command_on_library(options, program, arguments);
    output_of(command.envs(variables.iter().copied()))
}

/// Runs the daemon; its files must hold what it wrote, and nothing else.
fn daemon(program: &Path, options: &[&str], first: &str, more: &[&str], variables: &[(&str, &str)]) -> Output {
    let folder = Folder::new("data");
    let count = FILES.to_string();
    let output = run(options, program, &[&[folder.path(), first, &count], more].concat(), variables);
    let files: Vec<_> = fs::read_dir(&folder.0).expect("ours").map(|file| file.expect("ours").path()).collect();
    assert_eq!(files.len(), FILES, "{output:?}");
    for file in files {
        assert_eq!(fs::read_to_string(&file).expect("text"), "payload\n", "{}: {output:?}", file.display());
    }
    output
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_daemon_that_closes_all_descriptors_keeps_its_files() {
    let Some(program) = compile("closed.c", &[]) else { return };
    let report = Scratch::new("report");
    let option = format!("--stats={}", report.0.display());
    for first in ["3", "0"] {
        let output = daemon(&program.0, &["--stats"], first, &[], &[]);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(text(&output.stderr).contains("arenas mapped now"), first == "3", "{output:?}");
        assert!(daemon(&program.0, &[&option], first, &[], &[]).status.success());
        assert!(daemon(&program.0, &[], first, &[], &[("PYMALLOC_STATS", "exit")]).status.success());
    }
    let lines = fs::read_to_string(&report.0).expect("it was written");
    assert_eq!(lines.lines().filter(|line| served(line)).count(), 2, "{lines}");
}

#[test]
fn last_words_spare_a_data_file_that_is_descriptor_2() {
    let Some(program) = compile("closed.c", &[]) else { return };
    for (first, says) in [("3", true), ("0", false)] {
        let output = daemon(&program.0, &[], first, &["misuse"], &[]);
        assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{output:?}");
        assert_eq!(text(&output.stderr).contains("not the start of a block"), says, "{output:?}");
    }
}

#[test]
fn a_file_that_got_the_reports_name_stays_as_it_is() {
    let Some(program) = compile("closed.c", &[]) else { return };
    let report = Scratch::new("report");
    let name = report.0.to_str().expect("UTF-8");
    let output = daemon(&program.0, &[&format!("--stats={name}")], "3", &["replace", name], &[]);
    assert!(text(&output.stderr).contains("not saved: the program closed the file"), "{output:?}");
    assert_eq!(fs::read_to_string(name).expect("the program's"), "payload\n");
}

#[test]
fn a_program_that_vanishes_from_its_root_user_and_environment_is_reported() {
    let Some(program) = compile("vanished.c", &[]) else { return };
    let (folder, empty) = (Folder::new("saved"), Folder::new("empty"));
    // No other user may write here.
    fs::set_permissions(&folder.0, fs::Permissions::from_mode(0o700)).expect("ours");
    let report = format!("{}/report", folder.path());
    let output = run(&[&format!("--stats={report}")], &program.0, &[empty.path()], &[]);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let line = fs::read_to_string(&report).expect("it was written");
    assert!(served(line.trim_end()));
    // It is reported by its first name, though it wrote over its arguments.
    assert!(line.contains("vanished.c)"), "{line}");
    let output = run(&["--stats"], &program.0, &[empty.path()], &[]);
    assert!(text(&output.stderr).contains("arenas mapped now"), "{output:?}");
    assert_eq!(fs::read_dir(&empty.0).expect("ours").count(), 0);
}

#[test]
fn a_report_that_cannot_be_saved_is_not_said_to_be() {
    let Some(program) = compile("vanished.c", &[]) else { return };
    let report = Scratch::new("report");
    let option = format!("--stats={}", report.0.display());
    let output = run(&[&option], &program.0, &["/", "full"], &[]);
    assert!(output.status.success(), "{output:?}");
    assert!(text(&output.stderr).contains("not saved: File too large"), "{output:?}");
}

/// As in `program 2>&1 | head`.
#[test]
fn a_stderr_that_nobody_reads_any_more_ends_no_program() {
    let Some(program) = compile("vanished.c", &[]) else { return };
    let empty = Folder::new("empty");
    let profile = Scratch::new("unread.pb");
    let name = profile.0.to_str().expect("UTF-8");
    let options = [&["--stats"][..], &["--trace", name]];
    for options in options.into_iter().take(if cfg!(feature = "trace") { 2 } else { 1 }) {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let mut command = command_on_library(options, &program.0, &[empty.path()]);
        let status = command.env("PYMALLOC_STATS", "exit").stderr(writer).status().expect("it starts");
        assert!(status.success(), "{options:?}: {status}");
    }
    assert!(!cfg!(feature = "trace") || fs::metadata(name).is_ok_and(|found| found.len() > 0));
}

#[cfg(feature = "trace")]
mod traced {
    use pymalloc_core::trace::Snapshot;

    use super::*;

    #[test]
    fn the_profile_is_saved_whatever_the_program_closed() {
        let Some(program) = compile("closed.c", &[]) else { return };
        for first in ["3", "0"] {
            let (profile, picture) = (Scratch::new("closed.pb"), Scratch::new("closed.svg"));
            let names = [&profile, &picture].map(|file| file.0.to_str().expect("UTF-8").to_owned());
            let output = daemon(&program.0, &["--trace", &names[0], "--flame-graph", &names[1]], first, &[], &[]);
            assert!(output.status.success(), "{output:?}");
            Snapshot::load(&profile.0).expect("a profile");
            assert!(fs::read_to_string(&picture.0).expect("a picture").contains("<svg"));
            assert_eq!(text(&output.stderr).contains("saved are"), first == "3", "{output:?}");
        }
    }

    #[test]
    fn the_profile_is_saved_for_a_program_that_vanishes() {
        let Some(program) = compile("vanished.c", &[]) else { return };
        let (folder, empty) = (Folder::new("saved"), Folder::new("empty"));
        fs::set_permissions(&folder.0, fs::Permissions::from_mode(0o700)).expect("ours");
        for name in ["one.pb", "%p.pb"] {
            let profile = format!("{}/{name}", folder.path());
            let output = run(&["--trace", &profile, "--trace-exit"], &program.0, &[empty.path()], &[]);
            assert!(text(&output.stderr).contains("at its exit; saved are"), "{output:?}");
        }
        let files: Vec<_> = fs::read_dir(&folder.0).expect("ours").map(|file| file.expect("ours").path()).collect();
        assert_eq!(files.len(), 2);
        for file in files {
            let snapshot = Snapshot::load(&file).expect("a profile");
            assert_eq!(snapshot.traces().filter(|trace| trace.block_bytes == 77).count(), 1);
        }
    }

    #[test]
    fn a_profile_that_cannot_be_saved_is_not_said_to_be() {
        let Some(program) = compile("vanished.c", &[]) else { return };
        let profile = Scratch::new("full.pb");
        let name = profile.0.to_str().expect("UTF-8");
        for (limit, reason) in [("full", "not saved: File too large"), ("data", "may not have 64 MiB more")] {
            let output = run(&["--trace", name], &program.0, &["/", limit], &[]);
            let said = text(&output.stderr);
            assert!(output.status.success(), "{output:?}");
            assert!(said.contains(reason) && said.contains("nothing was saved"), "{said}");
            assert!(!said.contains("saved are"), "{said}");
        }
    }
}

/// Threads that are cancelled while the library does its own work inside their calls.
#[test]
fn a_cancelled_thread_allocates_on() {
    let Some(program) = compile("cancelled.c", &[]) else { return };
    let report = |output: &Output| text(&output.stderr).matches("while running").count();
    let output = run(&[], &program.0, &[], &[("PYMALLOC_STATS", "signal=USR1")]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(report(&output), 3);
    let output = run(&["--stats"], &program.0, &["exit"], &[("PYMALLOC_STATS", "exit")]);
    assert!(output.status.success(), "{output:?}");
    assert!(text(&output.stderr).contains("arenas mapped now"), "{output:?}");
    assert!(text(&output.stderr).contains(", at exit"), "{output:?}");
}

#[cfg(feature = "trace")]
#[test]
fn a_cancelled_thread_allocates_on_while_it_is_traced() {
    let Some(program) = compile("cancelled.c", &[]) else { return };
    for arguments in [&[][..], &["exit"]] {
        let profile = Scratch::new("cancelled.pb");
        let name = profile.0.to_str().expect("UTF-8");
        let output = run(&["--trace", name], &program.0, arguments, &[]);
        assert!(output.status.success(), "{output:?}");
        pymalloc_core::trace::Snapshot::load(name).expect("a profile");
    }
}
