//! Files for viewers: pictures, and heap snapshots.

mod dot;
mod heapsnapshot;
mod svg;
