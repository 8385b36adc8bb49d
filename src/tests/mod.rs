//! Tests of the whole heap from inside: heaps of their own, over memory that refuses and counts.

mod arithmetic;
mod faults;
mod programs;
mod rules;
mod test_heap;
mod threads;
