//! The answers that a graph gives.

pub(super) mod analysis;
pub(super) mod answers;
pub(super) mod components;
pub(super) mod dominators;
pub(super) mod leaks;
pub(super) mod paths;
pub(super) mod reached;
pub(super) mod retained;
pub(super) mod statics;
