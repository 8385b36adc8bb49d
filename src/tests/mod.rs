//! Tests of the whole heap from inside: heaps of their own, over memory that refuses and counts.

mod ageing;
mod arenas;
mod arithmetic;
mod bare;
mod beyond;
mod bitmaps;
mod bound;
mod caches;
mod commits;
mod counts;
mod depots;
mod ended_threads;
mod faults;
mod idle;
mod knocks;
mod last_resort;
mod life;
mod limits;
mod locks;
mod magazines;
mod medium;
pub(crate) mod memory;
mod metadata;
mod oracle;
mod os_pages;
mod phases;
mod programs;
mod purge_batches;
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
mod purge_calls;
mod purges;
mod recall;
mod remote_frees;
mod sweeps;
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
mod system;
pub(crate) mod test_heap;
mod test_memory;
mod threads;
mod thresholds;
mod warm;
mod zeroed;
