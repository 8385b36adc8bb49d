//! Forks, in `unix/fork.rs`: nothing where there is no `fork`.

#[cfg(unix)]
#[path = "unix/fork.rs"]
mod test;

fn main() {
    #[cfg(unix)]
    test::main();
}
