//! The feature `hardened`: what the thread cache does in addition when a block is handed out or freed.
//!
//! | file | mechanism |
//! |---|---|
//! | `protocols/block_state` | one byte per block: whether the program has it. Every free is checked at its call |
//! | `random` | which block is next can't be predicted |
//! | `quarantine` | a freed block is not handed out again for a while |
//! | `zero` | a freed block is cleared, and must still be clear when it leaves the quarantine |
//! | `on` | the hooks, which put the four together |
//! | `off` | their empty twins, of a build without the feature |
//!
//! The mechanisms follow hardened_malloc (GrapheneOS); the data structures do not.
//!
//! # Invariants
//! - *Live*: a block's state is live, with the number of its class, if and only if the program has it.
//! - *Clean*: every byte of a block that the program does not have is zero, unless the program wrote into it after the
//!   free (the mistake that is looked for).

#[cfg(feature = "hardened")]
mod on;
#[cfg(feature = "hardened")]
pub(crate) use on::*;
#[cfg(feature = "hardened")]
mod quarantine;
#[cfg(feature = "hardened")]
mod random;
#[cfg(feature = "hardened")]
mod zero;

#[cfg(not(feature = "hardened"))]
mod off;
#[cfg(not(feature = "hardened"))]
pub(crate) use off::*;
