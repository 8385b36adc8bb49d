//! Panics: the allocator serves the exception objects with which they unwind.

mod common;

use pymalloc::Pymalloc;

#[global_allocator]
static GLOBAL: Pymalloc = Pymalloc::new();

#[test]
fn panics_unwind_wherever_their_exceptions_lie() {
    common::panic_at_many_addresses();
}
