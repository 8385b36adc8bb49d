//! CPython on the library, where `python3` is installed: its objects come from the pools, unless the user chose.

mod common;

use std::process::Command;

use common::{allocations, preloaded};

const OBJECTS: usize = 200_000;

/// The allocations that the library served while CPython made many objects; `None`, with a message, without CPython.
fn served_with(options: &[&str], variables: &[(&str, &str)]) -> Option<usize> {
    let Ok(python) = Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output() else {
        eprintln!("SKIPPED: there is no python3 on this machine");
        return None;
    };
    // Not what may be a script that starts it.
    let python = String::from_utf8(python.stdout).expect("UTF-8");
    let program = format!("import os; kept = [object() for _ in range({OBJECTS})]; print(len(kept))");
    let mut command = Command::new(python.trim());
    command.args(options).args(["-c", &program]).env_remove("PYTHONMALLOC").envs(variables.iter().copied());
    let (output, report) = preloaded(&mut command);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), OBJECTS.to_string());
    Some(report.iter().map(|line| allocations(line)).max().expect("a line"))
}

#[test]
fn its_objects_come_from_the_pools_without_a_variable() {
    if let Some(served) = served_with(&[], &[]) {
        assert!(served >= OBJECTS, "only {served} allocations");
    }
}

#[test]
fn a_user_who_chose_an_allocator_gets_that_one() {
    if let Some(served) = served_with(&[], &[("PYTHONMALLOC", "pymalloc")]) {
        assert!(served < OBJECTS, "{served} allocations");
    }
    if let Some(served) = served_with(&[], &[("PYTHONMALLOC", "malloc")]) {
        assert!(served >= OBJECTS, "only {served} allocations");
    }
    // CPython's debug hooks, over its own allocator.
    if let Some(served) = served_with(&["-X", "dev"], &[]) {
        assert!(served < OBJECTS, "{served} allocations");
    }
}
