//! The flags `pymalloc_valgrind` and `pymalloc_asan`: memcheck or AddressSanitizer is told which bytes of the arenas
//! are the program's.
//!
//! To these tools, an arena is one mapping, all of whose bytes may be used. With a flag, a new arena is marked as
//! not to be touched, a block is opened when it is handed out, as far as the program asked for it, and closed when it
//! is freed. Each request gets [`PAD_BYTES`] more than it asked for, which stay closed: so blocks have a closed strip
//! between them.
//!
//! What can't be seen: a use after the block was handed out again, which is soon, since magazines are stacks; an access
//! that jumps over the strip into another block; in a thread without a cache, the same.
//!
//! | file | what |
//! |---|---|
//! | `valgrind` | client requests, by the instructions that `valgrind.h` publishes; nothing but a few rotations outside valgrind |
//! | `asan` | `__asan_poison_memory_region` and its opposite, weakly linked; nothing in a program without AddressSanitizer |
//! | `off` | without either flag: nothing |
//!
//! Free blocks are not read or written by the allocator (the one exception, clearing a block for `alloc_zeroed`, is
//! done by the caller of these hooks): so it does not trip over its own marks. With `hardened`, which does read and
//! write them, the marks can't be combined, nor with `__raw`, whose blocks have no layouts.

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
