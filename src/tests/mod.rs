//! Tests of the whole heap from inside: heaps of their own, over memory that refuses and counts.

mod arenas;
mod arithmetic;
mod bound;
mod caches;
mod depots;
mod ended_threads;
mod faults;
mod idle;
mod magazines;
mod oracle;
mod programs;
mod purges;
mod remote_frees;
pub(crate) mod test_heap;
mod threads;
mod warm;
