//! The two kinds of size classes, and what differs between them: all that is done to blocks and pools is written once,
//! for a kind.
//!
//! | | [`Small`] | [`Medium`] |
//! |---|---|---|
//! | block bytes | 8, 16, 24 … 512 | 576 … 32,768, eight classes for each doubling |
//! | pool | one of the arena's | one, or from 4,608 bytes on eight side by side |
//! | blocks of a pool | 64 … 4,096 | 8 … 56 |
//!
//! The classes of both have an *index*, small ones first: what a word keeps that may name either.

use core::fmt::Debug;

use crate::base::config::{CLASS_COUNT, MEDIUM_CLASS_COUNT};

/// A kind of size classes.
pub(crate) trait Kind: Copy + Eq + Debug + 'static {
    /// Its classes: one of two, so that a test of it is none at run time.
    const IS_SMALL: bool;
    /// How many.
    const CLASSES: usize = if Self::IS_SMALL { CLASS_COUNT } else { MEDIUM_CLASS_COUNT };
    /// The index of the first.
    const FIRST: usize = if Self::IS_SMALL { 0 } else { CLASS_COUNT };
    /// Bits of a quotient's fraction (see `size_class`).
    const RECIPROCAL_SHIFT: u32 = if Self::IS_SMALL { 28 } else { 40 };
    /// Bits of them that an exact quotient may have set, from the lowest.
    const INEXACT_SHIFT: u32 = if Self::IS_SMALL { 19 } else { 20 };
}

/// The classes of requests up to 512 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Small {}

impl Kind for Small {
    const IS_SMALL: bool = true;
}

/// Those of requests above, up to 32 KiB, if the program asks for them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Medium {}

impl Kind for Medium {
    const IS_SMALL: bool = false;
}
