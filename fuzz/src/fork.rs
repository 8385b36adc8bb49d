//! No forks.

pub(crate) fn watch() {}

pub(crate) fn this_thread_forks() -> bool {
    false
}
