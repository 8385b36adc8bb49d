//! Tests of the whole heap from inside: heaps of their own, over memory that refuses and counts.

mod arenas;
mod arithmetic;
mod bitmaps;
mod bound;
mod faults;
mod idle;
mod knocks;
mod magazines;
mod oracle;
mod os_pages;
mod programs;
mod rules;
mod sweeps;
pub(crate) mod test_heap;
mod threads;
mod thresholds;
