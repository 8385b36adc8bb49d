//! On Windows the tracer says that it is not there, by its typed error.
#![cfg(all(feature = "trace", windows))]

use pymalloc::Pymalloc;
use pymalloc::trace::{self, Config, StartError};

#[global_allocator]
static GLOBAL: Pymalloc = Pymalloc::new();

#[test]
fn a_start_is_refused_and_nothing_is_traced() {
    assert_eq!(trace::start(Config::new()), Err(StartError::Unsupported));
    assert!(!trace::is_tracing());
    assert!(trace::take_snapshot().is_err());
}
