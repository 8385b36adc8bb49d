//! Files for other tools: pprof profiles, collapsed stacks, flame graphs.

pub(crate) mod collapsed;
#[cfg(feature = "flamegraph")]
pub(crate) mod flame;
pub(crate) mod pprof;
