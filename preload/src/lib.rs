//! `libpymalloc.so`: the C library's malloc family and C++'s `operator new` and `delete` on pymalloc, for `LD_PRELOAD`.
//!
//! A request of up to 512 bytes is served from the pools of small blocks, one of up to 1 MiB from the arenas, too
//! (`large`), and a larger one by glibc's own malloc. A free looks up the address in the map of arenas; a block that no
//! arena holds is glibc's.
//!
//! # Rules
//! - Nothing here may allocate through std, because std's `System` calls *our* `malloc`. Nor may it use thread-locals
//!   of std. (The tracer may do both: it does so outside of all locks of the heap, and recognises its own calls.)
//! - No function that allocates or frees may take a lock of the dynamic linker, except when memory has run out.
//! - Nothing here panics.
//!
//! | file | contents |
//! |---|---|
//! | `c` | malloc, free and their family |
//! | `cxx` | `operator new` and `operator delete` in all their forms |
//! | `large` | blocks above 512 bytes: medium ones, and glibc's; definitions that come after ours in the link chain |
//! | `start` | what runs when the library is loaded: environment, fork handlers |
//! | `deep` | `dlopen` without the flag that would bypass the functions above |
//! | `kept` | stderr and files to be written at the program's end: kept from its start |
//! | `python` | CPython's objects, served without `PYTHONMALLOC` |
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
mod python;
mod report;
mod start;
#[cfg(feature = "trace")]
mod trace;
