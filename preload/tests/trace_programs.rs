//! Programs that other profilers stumble over, traced: code made at run time, small stacks, libraries that come and go.
#![cfg(feature = "trace")]

mod common;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Scratch, command_path, output_of};
use pymalloc_core::trace::{Filter, Snapshot};

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/traced").join(name)
}

/// Whether there is a program of that name; says so if not.
fn is_here(program: &str) -> bool {
    let is_here = Command::new(program).arg("-v").output().is_ok();
    if !is_here {
        eprintln!("SKIPPED: there is no `{program}` on this machine, so what needs it was not tested");
    }
    is_here
}

/// Compiles a program or library of `tests/traced`; `None` without a compiler.
fn compile(name: &str, output: &Path, options: &[&str]) -> Option<()> {
    let compiler = if name.ends_with(".cpp") { "c++" } else { "cc" };
    if !is_here(compiler) {
        return None;
    }
    let compiled =
        output_of(Command::new(compiler).args(["-O1", "-g"]).args(options).arg(source(name)).arg("-o").arg(output));
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    Some(())
}

/// Runs a program traced, in a folder; returns what it printed and what was held at its exit.
fn traced(folder: &Path, program: &[&str]) -> (String, Snapshot) {
    let profile = Scratch::new("out.pb");
    let mut command = Command::new(command_path());
    command.args(["run", "--trace-exit", "--trace"]).arg(&profile.0).arg("--").args(program);
    let output = output_of(command.env_remove("LD_PRELOAD").current_dir(folder));
    assert!(output.status.success(), "{output:?}");
    let snapshot = Snapshot::load(&profile.0).expect("a profile");
    (String::from_utf8_lossy(&output.stdout).into_owned(), snapshot)
}

fn run_compiled(name: &str, arguments: &[&str]) -> Option<String> {
    let program = Scratch::new(name);
    compile(name, &program.0, &["-pthread"])?;
    let program = program.0.to_str().expect("UTF-8");
    Some(traced(&std::env::temp_dir(), &[&[program], arguments].concat()).0)
}

#[test]
fn a_program_that_registers_unwind_information_walks_its_stack() {
    if let Some(printed) = run_compiled("registered_frames.cpp", &[]) {
        assert_eq!(printed, "walked\n");
    }
}

#[test]
fn code_made_at_run_time_allocates() {
    if is_here("luajit") {
        let script = source("luajit.lua");
        let (printed, _) = traced(&std::env::temp_dir(), &["luajit", script.to_str().expect("UTF-8")]);
        assert_eq!(printed, "done\n");
    }
}

#[test]
fn threads_with_small_stacks_allocate_and_end_the_process() {
    for kib in ["16", "64"] {
        for arguments in [&[kib][..], &[kib, "exit"]] {
            let Some(printed) = run_compiled("small_stack.c", arguments) else { return };
            assert_eq!(printed, format!("{kib} KiB: 0\n"));
        }
    }
}

/// The tracer allocates at the exit, and must not get the block twice.
#[test]
fn a_block_that_was_freed_twice_is_found_before_the_profile_is_made() {
    let program = Scratch::new("double_free");
    if compile("double_free.c", &program.0, &["-fno-builtin", "-Wno-use-after-free"]).is_none() {
        return;
    }
    for bytes in ["16", "64", "128", "160"] {
        let profile = Scratch::new("out.pb");
        let mut command = Command::new(command_path());
        command.args(["run", "--trace"]).arg(&profile.0).arg("--").arg(&program.0).args([bytes, "60"]);
        let output = output_of(command.env_remove("LD_PRELOAD"));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.starts_with("pymalloc: double free: block is already free") && !said.contains("held"), "{said}");
        assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{output:?}");
    }
}

/// How many blocks are charged to a function after libraries were unloaded, compiled with these options.
fn leaks_after(options: &[&str], arguments: &[&str], functions: [&str; 2]) -> Option<[usize; 2]> {
    let folder = Scratch::new("libraries");
    fs::create_dir_all(&folder.0).expect("a folder");
    for library in ["leak_a", "leak_b"] {
        let output = folder.0.join(format!("{library}.so"));
        compile(&format!("{library}.c"), &output, &[&["-shared", "-fPIC"], options].concat())?;
    }
    let program = folder.0.join("unloaded");
    compile("unloaded.c", &program, &["-ldl"]).expect("compiled the libraries");
    let (_, snapshot) = traced(&folder.0, &[&[program.to_str().expect("UTF-8")], arguments].concat());
    fs::remove_dir_all(&folder.0).expect("ours");
    Some(functions.map(|function| {
        let of = snapshot.filter(&[Filter::include().function(function).expect("a pattern").all_frames()]);
        of.traces().filter(|trace| trace.block_bytes == 100).map(|trace| trace.blocks).sum()
    }))
}

#[test]
fn a_leak_is_charged_to_the_library_that_was_there_then() {
    const NO_ID: &[&str] = &["-Wl,--build-id=none"];
    for (options, arguments, expected) in [
        // Unloaded, and nothing in its place.
        (&[][..], &[][..], [3000, 0]),
        // Another in its place.
        (&[], &["both"], [3000, 10]),
        // The same library again, at another place.
        (&[], &["moved"], [3010, 0]),
        (NO_ID, &["moved"], [3010, 0]),
        // Another file has its name by now: no name is found.
        (&[], &["replaced"], [0, 0]),
        (NO_ID, &["replaced"], [0, 0]),
    ] {
        let Some(found) = leaks_after(options, arguments, ["allocate_in_a", "allocate_in_b"]) else { return };
        assert_eq!(found, expected, "{options:?} {arguments:?}");
    }
}
