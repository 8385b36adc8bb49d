//! What glibc's `malloc` keeps, in `unix/system_malloc.rs`: nothing where there is none.

#[cfg(unix)]
#[path = "unix/system_malloc.rs"]
mod test;

fn main() {
    #[cfg(unix)]
    test::main();
}
