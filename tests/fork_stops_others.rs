//! A fork stops other threads: the test is in `unix/fork_stops_others.rs`. On systems without `fork` this does nothing.

#[cfg(unix)]
#[path = "unix/fork_stops_others.rs"]
mod test;

fn main() {
    #[cfg(unix)]
    test::main();
}
