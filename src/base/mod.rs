//! What every layer above may use: tunables, size classes, bitmaps, text without allocation, last words.

pub(crate) mod bitmap;
pub(crate) mod config;
pub(crate) mod fatal;
pub(crate) mod kind;
pub(crate) mod size_class;
pub(crate) mod text;
