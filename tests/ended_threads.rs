//! Ended threads and a fork: the test is in `unix/ended_threads.rs`. On systems without `fork` this does nothing.

#[cfg(unix)]
#[path = "unix/ended_threads.rs"]
mod test;

fn main() {
    #[cfg(unix)]
    test::main();
}
