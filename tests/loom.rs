//! Loom models of the protocols. They explore every interleaving (up to a bound), and every value that a load may
//! return under weak memory ordering.
//!
//! # What runs
//! `protocols/remote.rs`, `protocols/lock.rs`, `protocols/roll.rs`, `protocols/block_state.rs` and
//! `protocols/summons.rs` are compiled here from the product's own source, against a twin of `sync.rs` made of loom's
//! types: no line of them is copied. The code around them in `pool_set/` and `cache/` depends on half the crate, so
//! `world`, `bare`, `poison`, `publication`, `classes`, `idle`, `session`, `intervals`, `states` and `walks` repeat it
//! in simplified form. Each says what it repeats; a change there must be made here, too.
//!
//! # How to run
//! ```text
//! RUSTFLAGS="--cfg pymalloc_loom" cargo test --release --test loom --target-dir target/loom
//! ```
//! `LOOM_LOG=trace LOOM_LOCATION=1` and the name of a test print the failing execution. `tests/loom_mutations.sh` shows
//! that the models can fail; `docs/loom.md` says which model tests which part of a protocol.
//!
//! # How to read a model
//! Each test asks one question, and its name is the answer. [`check`] explores all interleavings, [`check_bounded`]
//! those with at most a given number of preemptions (a thread that blocks or ends is no preemption). Object pools have
//! models of their own: `object-pool/tests/loom.rs`.
#![cfg(pymalloc_loom)]

#[path = "../src/protocols/block_state.rs"]
mod block_state;
#[path = "../src/protocols/lock.rs"]
mod lock;
#[path = "../src/protocols/remote.rs"]
mod remote;
#[path = "../src/protocols/roll.rs"]
mod roll;
#[path = "../src/protocols/summons.rs"]
mod summons;
#[path = "loom/sync.rs"]
mod sync;

#[path = "loom/bare.rs"]
mod bare;
#[path = "loom/check.rs"]
mod check;
#[path = "loom/classes.rs"]
mod classes;
#[path = "loom/idle.rs"]
mod idle;
#[path = "loom/intervals.rs"]
mod intervals;
#[path = "loom/knock.rs"]
mod knock;
#[path = "loom/locks.rs"]
mod locks;
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
#[path = "loom/summons.rs"]
mod summoned;
#[path = "loom/walks.rs"]
mod walks;
#[path = "loom/world.rs"]
mod world;

use check::{check, check_bounded};
