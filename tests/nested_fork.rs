//! A fork in a fork handler, in `unix/nested_fork.rs`: nothing where there is no `fork`.

#[cfg(unix)]
#[path = "unix/nested_fork.rs"]
mod test;

fn main() {
    #[cfg(unix)]
    test::main();
}
