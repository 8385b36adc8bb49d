//! The flags `pymalloc_valgrind` and `pymalloc_asan`: marks that show memcheck or AddressSanitizer which bytes of the
//! arenas the program may use.
//!
//! To these tools, an arena is one mapping with no byte closed. With a flag, a new arena is closed as a whole. A block
//! is opened when it is handed out, as far as the program asked for it, and closed when it is freed. Each request gets
//! [`PAD_BYTES`] more than it asked for. These stay closed, so there is a closed strip between blocks.
//!
//! Not detected: a use after free once the block was handed out again, which is soon, since magazines are stacks; an
//! access that jumps over the strip into another block. The same holds in a thread without a cache.
//!
//! | file | what |
//! |---|---|
//! | `valgrind` | client requests, made with the instructions that `valgrind.h` publishes; outside valgrind only a few rotations |
//! | `asan` | `__asan_poison_memory_region` and its opposite, weakly linked; no effect in a program without AddressSanitizer |
//! | `off` | without either flag: nothing |
//!
//! The allocator does not read or write free blocks, so it does not trip over its own marks. (It does clear a block for
//! `alloc_zeroed`; the caller of these hooks does that once the block is open.) The marks can't be combined with
//! `hardened`, which reads and writes free blocks, nor with `__raw`, whose blocks have no layouts.

#[cfg(all(pymalloc_valgrind, pymalloc_asan))]
compile_error!("pymalloc_valgrind and pymalloc_asan: choose one");
#[cfg(all(any(pymalloc_valgrind, pymalloc_asan), any(feature = "hardened", feature = "__raw")))]
compile_error!("pymalloc_valgrind and pymalloc_asan can't be combined with the features `hardened` and `__raw`");
#[cfg(all(
    any(pymalloc_valgrind, pymalloc_asan),
    not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))
))]
compile_error!("pymalloc_valgrind and pymalloc_asan: for Linux on x86-64 or aarch64");

#[cfg(pymalloc_asan)]
mod asan;
#[cfg(all(pymalloc_asan, not(pymalloc_valgrind)))]
pub(crate) use asan::*;

#[cfg(pymalloc_valgrind)]
mod valgrind;
#[cfg(pymalloc_valgrind)]
pub(crate) use valgrind::*;

#[cfg(not(any(pymalloc_valgrind, pymalloc_asan)))]
mod off;
#[cfg(not(any(pymalloc_valgrind, pymalloc_asan)))]
pub(crate) use off::*;
