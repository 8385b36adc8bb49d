//! Inspection of the heap: statistics, the self-check, measurements, reports on stderr, pictures.

pub(crate) mod check;
pub(crate) mod heap_map;
pub(crate) mod measure;
pub(crate) mod report;
pub(crate) mod stats;
