//! What the runner and the worker share: the frozen sizes, the two catalogues (workloads,
//! allocators) and the line in which a worker reports a run.

pub mod allocators;
pub mod catalog;
pub mod params;
pub mod patterns;
pub mod sample;
