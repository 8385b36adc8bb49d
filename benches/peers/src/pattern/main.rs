//! Runs one memory pattern with the allocator that a Cargo feature chose. The runner `memory-return` watches its RSS.
//!
//! `pattern NAME` prints lines: `mark LABEL` when a part begins, `figure VALUE NAME` when a figure is known. Exit code
//! 2 on a bad command line.

#[path = "../worker/allocator.rs"]
mod allocator;
mod blocks;
mod ended;
mod idle;
mod large;
#[path = "../worker/offheap.rs"]
mod offheap;
mod phases;
#[path = "../worker/random.rs"]
#[expect(dead_code, reason = "the workloads use the rest")]
mod random;
mod returning;
mod rss;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name] = &arguments[..] else {
        eprintln!("usage: pattern NAME");
        return ExitCode::from(2);
    };
    let Some(run) = find(name) else {
        eprintln!("pattern: no pattern is called {name:?}");
        return ExitCode::from(2);
    };
    run();
    ExitCode::SUCCESS
}

fn find(name: &str) -> Option<fn()> {
    Some(match name {
        "phases-32-cross" => || phases::classes_in_turn(32, true),
        "phases-8" => || phases::classes_in_turn(8, false),
        "medium-phases-32" => || phases::medium_in_turn(32, true),
        "medium-phases-8" => || phases::medium_in_turn(8, false),
        "idle-threads" => idle::one_block_a_class,
        "big-heap-threads" => idle::beside_a_big_heap,
        "pool-burst" => || idle::pool_of_bursts(32, 512),
        "pool-burst-mixed" => || idle::pool_of_bursts(16, 16 << 10),
        "sleeping-owner" => phases::sleeping_owner,
        "pinned-depots" => phases::pinned_depots,
        "kept-large-1" => || large::kept(1),
        "kept-large-16" => || large::kept(16),
        "small-large-turns" => large::small_and_large,
        "ended-fork" => ended::fork,
        "ended-walk" => ended::walk,
        "limit" => phases::limit,
        _ => return None,
    })
}

/// Reports that the next part of the pattern begins.
fn mark(label: &str) {
    println!("mark {label}");
}

/// Reports a figure by its name in the catalogue.
fn figure(name: &str, value: f64) {
    println!("figure {value:.3} {name}");
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_pattern_of_the_catalogue_has_a_function() {
        for pattern in peers::patterns::PATTERNS {
            assert!(super::find(pattern.name).is_some(), "{}", pattern.name);
        }
    }
}
