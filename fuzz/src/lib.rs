//! Coverage-guided fuzzing of the allocator. An input is a program of operations by several threads *and* their
//! interleaving, step by step. So a failure repeats.
//!
//! The allocator's own source is compiled here (`build.rs`), with twins of the modules at its edges:
//!
//! | twin | does |
//! |---|---|
//! | `sync` | atomics that let another thread run before each access; the scheduler's own futex |
//! | `os` | memory that is counted and fails on request; no forks |
//! | `observe` | does nothing |
//!
//! `scheduler` runs the threads as coroutines on one OS thread. `program` reads an input. `world` runs it against a
//! model of live blocks, and checks the heap by the self-check. Memory is sequentially consistent here: the loom models
//! test orderings.

// The fuzzer uses only a part of the allocator's modules.
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
