//! What the model checker compiles as it is: each file is one protocol between threads, written on `sync` alone.
//! (`own_threads` is no protocol: it has the places of `own_thread`.)

#[cfg(feature = "hardened")]
pub(crate) mod block_state;
pub(crate) mod lock;
#[cfg(feature = "graph")]
pub(crate) mod own_thread;
#[cfg_attr(not(feature = "trace"), allow(dead_code, reason = "only the purge thread's, and some have none"))]
pub(crate) mod own_threads;
pub(crate) mod remote;
pub(crate) mod roll;
#[cfg(feature = "graph")]
pub(crate) mod summons;
