//! Loom models of the protocols: every interleaving (up to a bound), and every value that a weak memory may show.
//!
//! # What runs
//! `protocols/remote.rs`, `protocols/lock.rs` and `protocols/block_state.rs` are compiled here from the product's own
//! source, against a twin of `sync.rs` made of loom's types: no line of them is typed again. What lies around them in
//! `pool_set/` and `cache/` names half the crate, so `world`, `poison`, `publication`, `classes`, `idle`, `session` and
//! `states` repeat it in small; each says what it repeats, and a change there is a change here.
//!
//! So are the shared parts of object pools, with a twin of their own `sync.rs`.
//!
//! # How to run
//! ```text
//! RUSTFLAGS="--cfg pymalloc_loom" cargo test --release --test loom --target-dir target/loom
//! ```
//! `LOOM_LOG=trace LOOM_LOCATION=1` and the name of a test print the failing execution. `tests/loom_mutations.sh`
//! shows that the models can fail; `docs/loom.md` says which model stands for which part of a protocol.
//!
//! # How to read a model
//! One question a test; its name is the answer. [`check`] explores all interleavings, [`check_bounded`] those with at
//! most so many preemptions (a thread that blocks or ends is no preemption).
#![cfg(pymalloc_loom)]

#[path = "../src/protocols/block_state.rs"]
mod block_state;
#[path = "../src/protocols/lock.rs"]
mod lock;
#[path = "../src/protocols/remote.rs"]
mod remote;
#[path = "loom/sync.rs"]
mod sync;

#[path = "loom/classes.rs"]
mod classes;
#[path = "loom/idle.rs"]
mod idle;
#[path = "loom/knock.rs"]
mod knock;
#[path = "loom/locks.rs"]
mod locks;
#[path = "loom/object_pool/mod.rs"]
mod object_pool;
#[path = "loom/owners.rs"]
mod owners;
#[path = "loom/poison.rs"]
mod poison;
#[path = "loom/publication.rs"]
mod publication;
#[path = "loom/remote_free.rs"]
mod remote_free;
#[path = "loom/session.rs"]
mod session;
#[path = "loom/states.rs"]
mod states;
#[path = "loom/world.rs"]
mod world;

/// Explores every interleaving of `model`.
fn check(model: impl Fn() + Sync + Send + 'static) {
    explore(None, model);
}

/// Explores the interleavings of `model` with at most `preemptions` switches away from a thread that could go on.
fn check_bounded(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    explore(Some(preemptions), model);
}

fn explore(preemptions: Option<usize>, model: impl Fn() + Sync + Send + 'static) {
    let executions = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let mut builder = loom::model::Builder::new();
    // `LOOM_MAX_PREEMPTIONS` wins: for a deeper look at one model.
    builder.preemption_bound = builder.preemption_bound.or(preemptions);
    let counter = executions.clone();
    builder.check(move || {
        // Relaxed: one execution runs at a time.
        counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        model();
    });
    println!("{} executions", executions.load(std::sync::atomic::Ordering::Relaxed));
}
