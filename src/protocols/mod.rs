//! What the model checker compiles as it is: each file is one protocol between threads, written on `sync` alone.

#[cfg(feature = "hardened")]
pub(crate) mod block_state;
pub(crate) mod lock;
pub(crate) mod remote;
pub(crate) mod roll;
#[cfg(feature = "graph")]
pub(crate) mod summons;
