//! C and C++ programs on the library, where a compiler is installed; loudly skipped elsewhere.

mod common;

use std::path::Path;
use std::process::Command;

use common::{Scratch, output_of, preloaded, served};

/// Compiles a program of `tests/cxx`, runs it with and without the library, and compares.
fn same_with_and_without(compiler: &str, source: &str, arguments: &[&str]) {
    if Command::new(compiler).arg("--version").output().is_err() {
        eprintln!("SKIPPED: {source} was not tested, because there is no compiler `{compiler}` on this machine");
        return;
    }
    let program = Scratch::new(source);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cxx").join(source);
    let standard = if compiler == "c++" { "-std=c++17" } else { "-D_GNU_SOURCE" };
    let compiled = output_of(
        Command::new(compiler)
            .args([standard, "-O2", "-fsized-deallocation", "-Wno-mismatched-new-delete", "-pthread"])
            .arg(&path)
            .arg("-o")
            .arg(&program.0)
            .arg("-ldl"),
    );
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    let without = output_of(&mut Command::new(&program.0));
    assert!(without.status.success(), "without the library: {without:?}");
    let (with, report) = preloaded(Command::new(&program.0).args(arguments));
    assert!(with.status.success(), "{with:?}");
    assert_eq!(with.stdout, without.stdout);
    assert!(report.iter().any(|line| served(line)), "the library did not serve it: {report:?}");
}

#[test]
fn every_operator_of_cxx() {
    same_with_and_without("c++", "operators.cpp", &["libpymalloc.so"]);
}

#[test]
fn a_program_with_operators_of_its_own() {
    same_with_and_without("c++", "replaced.cpp", &[]);
}

#[test]
fn edges_of_c() {
    same_with_and_without("cc", "edges.c", &[]);
}
