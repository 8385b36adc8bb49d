//! A fork in a fork handler: the test is in `unix/nested_fork.rs`. On systems without `fork` this does nothing.

#[cfg(unix)]
#[path = "unix/nested_fork.rs"]
mod test;

fn main() {
    #[cfg(unix)]
    test::main();
}
