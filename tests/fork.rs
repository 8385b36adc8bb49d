//! Forks: the test is in `unix/fork.rs`. On systems without `fork` this does nothing.

#[cfg(unix)]
#[path = "unix/fork.rs"]
mod test;

fn main() {
    #[cfg(unix)]
    test::main();
}
