//! Ended threads and a fork, in `unix/ended_threads.rs`: nothing where there is no `fork`.

#[cfg(unix)]
#[path = "unix/ended_threads.rs"]
mod test;

fn main() {
    #[cfg(unix)]
    test::main();
}
