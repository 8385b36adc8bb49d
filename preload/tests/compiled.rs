//! C and C++ programs on the library, where a compiler is installed.

mod common;

use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use common::{compile, library, output_of, preloaded, served};

/// Compiles a program, runs it with and without the library, and compares.
fn same_with_and_without(source: &str, arguments: &[&str]) {
    let Some(program) = compile(source, &[]) else { return };
    let without = output_of(&mut Command::new(&program.0));
    assert!(without.status.success(), "without the library: {without:?}");
    let (with, report) = preloaded(Command::new(&program.0).args(arguments));
    assert!(with.status.success(), "{with:?}");
    assert_eq!(with.stdout, without.stdout);
    assert!(report.iter().any(|line| served(line)), "the library did not serve it: {report:?}");
}

#[test]
fn every_operator_of_cxx() {
    same_with_and_without("operators.cpp", &["libpymalloc.so"]);
}

#[test]
fn a_program_with_operators_of_its_own() {
    same_with_and_without("replaced.cpp", &[]);
}

#[test]
fn edges_of_c() {
    same_with_and_without("edges.c", &[]);
}

/// What the program uses as `free` is then a stub in the program, and must not be taken for a `free` of its own.
#[test]
fn a_program_at_a_fixed_address_gets_aligned_blocks_from_the_pools() {
    let Some(program) = compile("fixed.c", &["-no-pie", "-fno-pie"]) else { return };
    let (output, report) = preloaded(&mut Command::new(&program.0));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "the library's\n", "{output:?}");
    assert!(report.iter().any(|line| served(line)), "{report:?}");
    // A library that comes before ours and defines the functions: the stub jumps there.
    let Some(other) = compile("other_malloc.c", &["-shared", "-fPIC"]) else { return };
    let both = format!("{}:{}", other.0.display(), library().display());
    let output = output_of(Command::new(&program.0).env("LD_PRELOAD", both));
    assert!(output.status.success() && output.stdout != b"the library's\n", "{output:?}");
}

/// SWI-Prolog is linked with such an allocator, gperftools' tcmalloc. Large blocks are that allocator's, and only it
/// knows their sizes.
#[test]
fn a_program_with_an_allocator_that_has_glibcs_names() {
    let Some(other) = compile("other_malloc.c", &["-shared", "-fPIC"]) else { return };
    let path = other.0.to_str().expect("UTF-8");
    let folder = other.0.parent().expect("a folder").to_str().expect("UTF-8");
    // Passed to the linker, because the library's file name ends as a source's does.
    let options = [format!("-Wl,--no-as-needed,{path}"), format!("-Wl,-rpath,{folder}")];
    let program = compile("large.c", &options.each_ref().map(String::as_str)).expect("as above");
    let without = output_of(&mut Command::new(&program.0));
    assert!(without.status.success(), "without the library: {without:?}");
    let (with, report) = preloaded(&mut Command::new(&program.0));
    assert!(with.status.success(), "{with:?}");
    assert!(report.iter().any(|line| served(line)), "{report:?}");
}

/// A program and the plug-ins that it loads with `RTLD_DEEPBIND` free each other's blocks.
#[test]
fn plugins_that_are_bound_deeply_use_the_library_too() {
    let Some(plugin) = compile("plugin.c", &["-shared", "-fPIC"]) else { return };
    // By its name alone: `dlopen` uses the search path of its caller, which must not be taken for the library.
    let folder = plugin.0.parent().expect("a folder").to_str().expect("UTF-8");
    let name = plugin.0.file_name().expect("a name").to_str().expect("UTF-8");
    let Some(host) = compile("deep.c", &[&format!("-Wl,-rpath,{folder}")]) else { return };
    let (output, report) = preloaded(Command::new(&host.0).arg(name));
    assert!(output.status.success() && output.stdout == b"done\n", "{output:?}");
    assert!(report.iter().any(|line| served(line)), "{report:?}");
    // With `misuse`, the host frees an address inside a block of the plug-in's: that is caught.
    let mut command = Command::new(&host.0);
    let output = output_of(command.args([name, "misuse"]).env("LD_PRELOAD", library()));
    assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{output:?}");
    let line = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(line.starts_with("pymalloc: ") && line.contains("not the start of a block"), "{output:?}");
    assert_eq!(line.matches('\n').count(), 1, "{output:?}");
}

/// With the flag, the plug-in uses glibc's functions, which a sandbox of plug-ins may need.
#[test]
fn plugins_stay_bound_deeply_if_the_variable_says_so() {
    let Some(plugin) = compile("plugin.c", &["-shared", "-fPIC"]) else { return };
    let Some(host) = compile("deep.c", &[]) else { return };
    let mut command = Command::new(&host.0);
    let output = output_of(command.arg(&plugin.0).env("LD_PRELOAD", library()).env("PYMALLOC_DEEPBIND", "1"));
    assert!(output.status.signal().is_some(), "{output:?}");
}
