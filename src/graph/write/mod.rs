//! Files for others' viewers.

mod dot;
mod heapsnapshot;
mod svg;
