//! `pymalloc run --trace`: what it saves, and the options that it refuses.

mod common;

use common::{Scratch, refused, run};

#[cfg(not(feature = "trace"))]
#[test]
fn a_library_without_the_tracer_is_refused() {
    let file = Scratch::new("out.pb");
    refused(&run(&["--trace", file.0.to_str().expect("UTF-8"), "true"]), "built without the tracer");
    assert!(!file.0.exists());
}

#[test]
fn options_without_a_file_are_refused() {
    refused(&run(&["--trace-frames", "3", "true"]), "go with --trace, --flame-graph, --timeline or --serve");
    refused(&run(&["--trace-exit", "true"]), "goes with --trace or --flame-graph");
}

#[cfg(feature = "trace")]
mod traced {
    use pymalloc_core::trace::{Filter, Snapshot};

    use std::fs;
    use std::process::{Command, Output};

    use super::*;
    use crate::common::{child, command_path, is_child, library, output_of};

    /// Holds 300 blocks of 40 bytes and one of 100,000, then frees them.
    #[inline(never)]
    fn holds_and_frees() {
        // SAFETY: blocks of malloc's, each freed once.
        unsafe {
            let mut blocks: Vec<_> = (0..300).map(|_| libc::malloc(40)).collect();
            blocks.push(libc::realloc(libc::malloc(1000), 100_000));
            for &block in std::hint::black_box(&blocks) {
                libc::free(block);
            }
        }
    }

    /// Runs the test of that name again, traced.
    fn run_self(test: &str, options: &[&str]) -> Output {
        let child = child(test);
        let mut command = Command::new(command_path());
        command
            .arg("run")
            .arg("--library")
            .arg(library())
            .args(options)
            .arg("--")
            .arg(child.get_program())
            .args(child.get_args());
        command.envs(child.get_envs().filter_map(|(name, value)| Some((name, value?)))).env_remove("LD_PRELOAD");
        output_of(&mut command)
    }

    #[test]
    fn what_was_held_at_the_peak_is_saved_with_names() {
        if is_child() {
            return holds_and_frees();
        }
        let (profile, picture) = (Scratch::new("out.pb"), Scratch::new("out.svg"));
        let (profile, picture) = (profile.0.to_str().expect("UTF-8"), picture.0.to_str().expect("UTF-8"));
        let test = "traced::what_was_held_at_the_peak_is_saved_with_names";
        let output = run_self(test, &["--trace", profile, "--flame-graph", picture]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains("near its peak"), "{output:?}");
        let snapshot = Snapshot::load(profile).expect("a profile");
        let own = snapshot.filter(&[Filter::include().function("*holds_and_frees*").expect("a pattern").all_frames()]);
        let of =
            |bytes| own.traces().filter(|trace| trace.block_bytes == bytes).map(|trace| trace.blocks).sum::<usize>();
        assert_eq!((of(40), of(100_000), of(1000)), (300, 1, 0), "{said}");
        // No frame of the library's is shown.
        let innermost = own.traces().map(|trace| trace.traceback.frames()[0].function().to_owned());
        assert!(innermost.into_iter().all(|function| !function.contains("malloc")), "the library's own frames");
        assert!(fs::read_to_string(picture).expect("a picture").contains("holds_and_frees"));
    }

    #[test]
    fn at_its_exit_a_program_holds_what_it_leaks() {
        if is_child() {
            holds_and_frees();
            // SAFETY: a block that is leaked.
            std::hint::black_box(unsafe { libc::malloc(77) });
            return;
        }
        let profile = Scratch::new("exit.pb");
        let profile = profile.0.to_str().expect("UTF-8");
        let output =
            run_self("traced::at_its_exit_a_program_holds_what_it_leaks", &["--trace", profile, "--trace-exit"]);
        assert!(output.status.success(), "{output:?}");
        let snapshot = Snapshot::load(profile).expect("a profile");
        assert_eq!(
            snapshot.traces().filter(|trace| trace.block_bytes == 77).map(|trace| trace.blocks).sum::<usize>(),
            1
        );
        assert_eq!(snapshot.traces().filter(|trace| trace.block_bytes == 100_000).count(), 0);
    }

    #[test]
    fn each_process_has_its_file_if_the_name_has_a_place_for_its_number() {
        let folder = std::env::temp_dir().join(format!("pymalloc-trace-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let script = "ls / >/dev/null; env >/dev/null; true";
        let count = |name: &str| {
            let output = run(&["--trace", folder.join(name).to_str().expect("UTF-8"), "--", "sh", "-c", script]);
            assert!(output.status.success(), "{output:?}");
            let files: Vec<_> = fs::read_dir(&folder).expect("ours").map(|file| file.expect("ours").path()).collect();
            for file in &files {
                // `dash` ends by `_exit` and saves nothing: the file that was made before stays empty.
                if fs::metadata(file).expect("ours").len() > 0 {
                    Snapshot::load(file).expect("a profile");
                }
                fs::remove_file(file).expect("ours");
            }
            files.len()
        };
        assert_eq!(count("one.pb"), 1);
        assert!(count("%p.pb") >= 2);
        fs::remove_dir_all(&folder).expect("ours");
    }

    #[test]
    fn files_that_cannot_be_written_are_refused_before_the_program_runs() {
        refused(&run(&["--trace", "/no/such/folder/out.pb", "echo", "ran"]), "/no/such/folder/out.pb");
        refused(&run(&["--flame-graph", "/no/such/folder/%p.svg", "echo", "ran"]), "/no/such/folder");
    }
}
