//! The fuzz target; `./run` builds and starts it.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    pymalloc_fuzz::run(&pymalloc_fuzz::Program::read(input));
});
