//! `libpymalloc.so`: the C library's malloc family and C++'s `operator new` and `delete` on pymalloc, for `LD_PRELOAD`.
//!
//! Up to 512 bytes a request is served from pools, anything else by glibc's own malloc. A free looks the address up in
//! the map of arenas; what no arena holds is glibc's.
//!
//! # Rules
//! - Nothing here may allocate through std: its `System` calls *our* `malloc`. No thread-local of std's either. (The
//!   tracer may: outside of all locks of the heap, and it knows its own calls.)
//! - No function that allocates or frees may take a lock of the dynamic linker, save where it has run out of memory.
//! - Nothing here panics.
//!
//! | file | what |
//! |---|---|
//! | `c` | malloc, free and their family |
//! | `cxx` | `operator new` and `operator delete` in all their forms |
//! | `large` | glibc's own functions, and definitions that come after ours in the link chain |
//! | `start` | what runs when the library is loaded: environment, fork handlers |
//! | `deep` | `dlopen` without the flag that would go past the functions above |
//! | `kept` | what is written to at the program's end: stderr and files, kept from its start |
//! | `report` | what runs when the program exits, if `PYMALLOC_REPORT` asks for it |
//! | `trace` | with the feature `trace`: what `PYMALLOC_TRACE` asks for |
//! | `graph` | with the feature `trace`: what `PYMALLOC_LEAKS` and `PYMALLOC_HEAPSNAPSHOT` ask for |

#[cfg(not(all(
    target_os = "linux",
    target_env = "gnu",
    target_pointer_width = "64",
    any(target_arch = "x86_64", target_arch = "aarch64")
)))]
compile_error!("the preload library is for glibc on x86-64 or aarch64");

mod c;
mod cxx;
mod deep;
#[cfg(feature = "trace")]
mod graph;
mod kept;
mod large;
mod report;
mod start;
#[cfg(feature = "trace")]
mod trace;
