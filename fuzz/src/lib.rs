//! Coverage-guided fuzzing of the allocator: an input is a program of operations by several threads *and* how they are
//! interleaved, step by step; so a failure repeats.
//!
//! The allocator's own source is compiled here (`build.rs`), with twins of the modules at its edges:
//!
//! | twin | does |
//! |---|---|
//! | `sync` | atomics that let another thread run before each access; a futex of the scheduler's |
//! | `os` | memory that is counted and fails on request; no forks |
//! | `observe` | nobody observes |
//!
//! `scheduler` runs the threads as coroutines on one OS thread, `program` reads an input, `world` runs it against a
//! model of live blocks, with the self-check as the judge. Memory is sequentially consistent here: the loom models see
//! to orderings.

// The allocator's modules are compiled for what the fuzzer uses of them.
#![allow(
    dead_code,
    unused_variables,
    unused_imports,
    unused_macros,
    unexpected_cfgs,
    unfulfilled_lint_expectations,
    unreachable_pub
)]
#![allow(clippy::all, reason = "the allocator's source is linted in its own package")]

include!(concat!(env!("OUT_DIR"), "/modules.rs"));

mod observe;
mod os;
mod sync;

mod program;
mod scheduler;
mod world;

pub use program::Program;
pub use scheduler::Trace;
pub use world::run;
