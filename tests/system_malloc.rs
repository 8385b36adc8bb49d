//! The memory that glibc's `malloc` keeps: the test is in `unix/system_malloc.rs`. On other systems this does nothing.

#[cfg(unix)]
#[path = "unix/system_malloc.rs"]
mod test;

fn main() {
    #[cfg(unix)]
    test::main();
}
