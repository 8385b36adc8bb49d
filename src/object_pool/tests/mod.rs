//! Tests of the parts. What the program sees is tested in `tests/object_pool.rs`, real interleavings in `tests/loom/`.

mod programs;
