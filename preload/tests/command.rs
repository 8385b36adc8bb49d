//! The command `pymalloc run`: the programs that it starts, and those that it refuses.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use common::{Scratch, command_path, library, output_of, served};

fn run(arguments: &[&str]) -> Output {
    output_of(Command::new(command_path()).arg("run").args(arguments).env_remove("LD_PRELOAD"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn assert_refused(output: &Output, message: &str) {
    let line = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert_eq!(line.matches('\n').count(), 1, "one line: {line:?}");
    assert!(line.starts_with("pymalloc: ") && line.contains(message), "{line:?} does not say {message:?}");
}

#[test]
fn starts_programs_with_their_arguments_and_status() {
    let output = run(&["--", "sh", "-c", "echo \"$0 $1\"; exit 7", "one", "--two"]);
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(7), "one --two\n"), "{output:?}");
    let output = run(&["env"]);
    let variables = text(&output.stdout);
    let preload = variables.lines().find(|line| line.starts_with("LD_PRELOAD=")).expect("it is set");
    assert!(preload.ends_with("libpymalloc.so"), "{preload}");
    let output = output_of(Command::new(command_path()).args(["run", "env"]).env("LD_PRELOAD", library()));
    assert!(text(&output.stdout).lines().any(|line| line.matches("libpymalloc.so").count() == 2), "the old one stays");
}

#[test]
fn prints_the_report() {
    let output = run(&["--stats", "--", "env"]);
    let report = text(&output.stderr);
    assert!(report.starts_with("pymalloc: process ") && report.contains("arenas mapped now"), "{output:?}");
    let file = Scratch::new("stats");
    let option = format!("--stats={}", file.0.display());
    assert!(run(&[&option, "env"]).stderr.is_empty());
    let lines = fs::read_to_string(&file.0).expect("it was written");
    assert!(served(lines.lines().next().expect("a line")), "{lines}");
    assert_refused(&run(&["--stats=relative", "true"]), "not an absolute path");
}

#[test]
fn refuses_what_it_cannot_start() {
    assert_refused(&run(&["no-such-program-anywhere"]), "program not found");
    assert_refused(&run(&["/no/such/program"]), "program not found");
    assert_refused(&run(&["--library", "/no/such/library.so", "true"]), "/no/such/library.so");
    assert_eq!(output_of(&mut Command::new(command_path())).status.code(), Some(2));
}

#[test]
fn refuses_programs_that_preloading_does_not_reach() {
    let folder = std::env::temp_dir().join(format!("pymalloc run {}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    let program = folder.join("program");
    // The head of a program without an interpreter; the command looks at nothing else.
    let real = fs::read("/bin/sh").expect("a shell");
    let mut head = real.get(..64).expect("an ELF header").to_vec();
    // No program headers.
    head.splice(56..58, [0, 0]);
    fs::write(&program, &head).expect("it is written");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("our file");
    assert_refused(&run(&[program.to_str().expect("UTF-8")]), "statically linked");
    // 32 bits.
    head[4] = 1;
    fs::write(&program, &head).expect("it is written");
    assert_refused(&run(&[program.to_str().expect("UTF-8")]), "not a 64-bit program");
    // A script is checked by its interpreter.
    let script = folder.join("script");
    fs::write(&script, "#!/bin/sh\necho said\n").expect("it is written");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("our file");
    assert_eq!(text(&run(&[script.to_str().expect("UTF-8")]).stdout), "said\n");
    // A program that runs with another user's rights.
    if let Some(path) = ["/usr/bin/su", "/bin/su"].into_iter().find(|path| Path::new(path).exists()) {
        // SAFETY: no preconditions.
        if unsafe { libc::getuid() } != 0 {
            assert_refused(&run(&[path]), "rights of another");
        }
    }
    // A path that LD_PRELOAD can't hold.
    let copy = folder.join("libpymalloc.so");
    fs::copy(library(), &copy).expect("it is copied");
    assert_refused(&run(&["--library", copy.to_str().expect("UTF-8"), "true"]), "space or a colon");
    fs::remove_dir_all(&folder).expect("our folder");
}

#[test]
fn takes_the_hardened_library_if_asked_to_and_if_it_is_there() {
    let folder = std::env::temp_dir().join(format!("pymalloc-hardened-{}", std::process::id()));
    let (programs, libraries) = (folder.join("bin"), folder.join("lib"));
    fs::create_dir_all(&programs).expect("a folder");
    fs::create_dir_all(&libraries).expect("a folder");
    let command = programs.join("pymalloc");
    fs::copy(command_path(), &command).expect("it is copied");
    fs::copy(library(), libraries.join("libpymalloc.so")).expect("it is copied");
    let preload = |hardened: bool| {
        let options: &[&str] = if hardened { &["--hardened", "env"] } else { &["env"] };
        let output = output_of(Command::new(&command).arg("run").args(options).env_remove("LD_PRELOAD"));
        let variables = text(&output.stdout);
        let line = variables.lines().find(|line| line.starts_with("LD_PRELOAD=")).expect("it is set").to_owned();
        (line, variables.contains("PYMALLOC_HARDENED=1"))
    };
    let (line, asked) = preload(true);
    assert!(line.ends_with("/libpymalloc.so") && asked, "{line}");
    fs::copy(library(), libraries.join("libpymalloc_hardened.so")).expect("it is copied");
    let (line, asked) = preload(true);
    assert!(line.ends_with("/libpymalloc_hardened.so") && asked, "{line}");
    let (line, asked) = preload(false);
    assert!(line.ends_with("/libpymalloc.so") && !asked, "{line}");
    fs::remove_dir_all(&folder).expect("our folder");
}
