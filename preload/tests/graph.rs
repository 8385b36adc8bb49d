//! `pymalloc run --leaks` and `--heapsnapshot`: what they find in C programs, and the options that they refuse.

mod common;

use common::{refused, run};

#[test]
fn options_that_do_not_go_together_are_refused() {
    refused(&run(&["--heapsnapshot-signal", "USR1", "true"]), "goes with --heapsnapshot");
    refused(&run(&["--leaks", "--trace", "/tmp/x.pb", "--trace-every", "512", "true"]), "");
}

#[cfg(not(feature = "trace"))]
#[test]
fn a_library_without_the_tracer_is_refused() {
    refused(&run(&["--leaks", "true"]), "built without the tracer");
}

#[cfg(feature = "trace")]
mod with_the_tracer {
    use std::fs;
    use std::process::Command;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::common::{Scratch, command_path, compile, library};

    #[test]
    fn files_and_signals_that_cannot_be_are_refused_before_the_program_runs() {
        refused(&run(&["--heapsnapshot", "/no/such/folder/x", "echo", "ran"]), "/no/such/folder/x");
        let file = Scratch::new("refused.heapsnapshot");
        let file = file.0.to_str().expect("UTF-8");
        refused(&run(&["--heapsnapshot", file, "--heapsnapshot-signal", "KILL", "echo"]), "none of USR1");
    }

    /// `leaks.c` says how many blocks it leaks: in a list, in circles, in an ended thread; and what it keeps.
    #[test]
    fn what_a_program_in_c_leaks_is_reported_and_what_it_keeps_is_not() {
        let Some(program) = compile("leaks.c", &["-g", "-fno-omit-frame-pointer"]) else { return };
        let file = Scratch::new("c.heapsnapshot");
        let path = file.0.to_str().expect("UTF-8");
        let output = run(&["--leaks", "--heapsnapshot", path, "--", program.0.to_str().expect("UTF-8")]);
        assert!(output.status.success(), "{output:?}");
        let report = String::from_utf8_lossy(&output.stderr);
        assert!(report.contains("leaks at its exit"), "{report}");
        for (function, count) in
            [("forget_list", "10 blocks, leaked with 1 block"), ("forget_ring", "leaked with 5 cycles")]
        {
            assert!(report.contains(function) && report.contains(count), "{function}: {report}");
        }
        assert!(!report.contains("in keep_"), "{report}");
        let snapshot = fs::read_to_string(&file.0).expect("a file");
        assert!(snapshot.starts_with("{\"snapshot\"") && snapshot.contains("forget_ring") && snapshot.ends_with("]}"));
    }

    #[test]
    fn a_program_that_leaks_nothing_is_told_so() {
        let Some(program) = compile("leaks.c", &["-g", "-DNOTHING"]) else { return };
        let output = run(&["--leaks", "--", program.0.to_str().expect("UTF-8")]);
        let report = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && report.contains("leaks nothing at its exit"), "{report}");
    }

    #[test]
    fn a_program_that_exits_right_after_the_signal_waits_for_its_snapshot() {
        if Command::new("bash").args(["-c", ":"]).status().is_err() {
            println!("not run: there is no bash");
            return;
        }
        let file = Scratch::new("exit.heapsnapshot");
        let name = file.0.to_str().expect("UTF-8");
        let options = ["--heapsnapshot", name, "--heapsnapshot-signal", "USR2", "--"];
        let output = run(&[&options[..], &["bash", "-c", "kill -USR2 $$"]].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains("saved the heap"), "{said}");
        assert!(fs::read_to_string(&file.0).is_ok_and(|text| text.ends_with("]}")), "{said}");
    }

    #[test]
    fn on_a_signal_a_running_programs_heap_is_saved() {
        let file = Scratch::new("signal.heapsnapshot");
        let mut command = Command::new(command_path());
        command.arg("run").arg("--library").arg(library()).arg("--heapsnapshot").arg(&file.0);
        command.args(["--heapsnapshot-signal", "USR2", "--", "sleep", "60"]).env_remove("LD_PRELOAD");
        let mut child = command.spawn().expect("it starts");
        let started = Instant::now();
        let saved = || fs::read_to_string(&file.0).is_ok_and(|text| text.ends_with("]}"));
        while !saved() {
            assert!(started.elapsed() < Duration::from_secs(100), "nothing was saved");
            assert!(child.try_wait().expect("our own child").is_none(), "the program ended");
            std::thread::sleep(Duration::from_millis(300));
            let is_watched = fs::read_to_string(format!("/proc/{}/task/{0}/comm", child.id())).is_ok_and(|name| {
                let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
                let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
                let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
                name.trim() == "sleep" && caught >> (libc::SIGUSR2 - 1) & 1 == 1
            });
            if is_watched {
                // SAFETY: a child of ours, which watches for the signal.
                unsafe { libc::kill(child.id().cast_signed(), libc::SIGUSR2) };
            }
        }
        child.kill().expect("our own child");
        child.wait().expect("our own child");
    }
}
