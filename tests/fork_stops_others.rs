//! What a fork stops, in `unix/fork_stops_others.rs`: nothing where there is no `fork`.

#[cfg(unix)]
#[path = "unix/fork_stops_others.rs"]
mod test;

fn main() {
    #[cfg(unix)]
    test::main();
}
