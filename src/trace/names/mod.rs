//! Names for code addresses: which module, which function, which line.

pub(crate) mod files;
pub(crate) mod modules;
pub(crate) mod origins;
pub(crate) mod recorded;
pub(crate) mod symbols;
pub(crate) mod traceback;
