//! Tests without the fuzzer: the corpus runs clean, runs repeat, and inputs of random bytes are programs.

use std::path::Path;

use pymalloc_fuzz::{Program, Trace, run};

fn corpus() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let mut files: Vec<_> =
        std::fs::read_dir(folder).expect("a folder").map(|file| file.expect("readable").path()).collect();
    files.sort();
    files.into_iter().map(|file| std::fs::read(file).expect("readable")).collect()
}

/// SplitMix64's bytes.
fn random_input(mut seed: u64, bytes: usize) -> Vec<u8> {
    (0..bytes)
        .map(|_| {
            seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            ((mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 56) as u8
        })
        .collect()
}

#[test]
fn the_corpus_runs_clean_and_is_rich() {
    let traces: Vec<Trace> = corpus().iter().map(|input| run(&Program::read(input))).collect();
    assert!(traces.len() >= 20, "{} inputs", traces.len());
    assert!(traces.iter().any(|trace| trace.switches > 50), "threads are interleaved");
    assert!(traces.iter().any(|trace| trace.sleeps > 0), "threads wait for each other");
}

#[test]
fn a_run_repeats_step_by_step() {
    for input in corpus().into_iter().take(50).chain((0..20).map(|seed| random_input(seed, 800))) {
        let program = Program::read(&input);
        assert_eq!(run(&program), run(&program));
    }
}

#[test]
fn random_bytes_are_programs_that_run_clean() {
    let mut switches = 0;
    for seed in 0..300 {
        switches += run(&Program::read(&random_input(seed, 1000))).switches;
    }
    assert!(switches > 1000, "{switches}");
}

#[test]
fn nothing_and_half_a_record_are_empty_programs() {
    assert_eq!(Program::read(&[]), Program::default());
    assert_eq!(Program::read(&[1, 2, 3]), Program::default());
    assert_eq!(run(&Program::default()).points, 0);
}
