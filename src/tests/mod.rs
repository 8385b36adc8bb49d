//! Tests of the whole heap from inside: heaps of their own, over memory that refuses and counts.

mod arithmetic;
mod bound;
mod faults;
mod idle;
mod magazines;
mod oracle;
mod programs;
mod rules;
pub(crate) mod test_heap;
mod threads;
mod warm;
