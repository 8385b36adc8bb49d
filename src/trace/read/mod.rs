//! Reading what was recorded: snapshots, statistics, filters, growth between runs.

pub(crate) mod filter;
pub(crate) mod growth;
pub(crate) mod snapshot;
pub(crate) mod statistics;
pub(crate) mod text;
