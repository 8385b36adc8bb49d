//! An operating system that refuses the allocator's requests at random.
//!
//! The four calls by which the allocator gets and gives back memory are defined here, so the linker takes these and not
//! the C library's. They refuse only inside [`amid`]: requests of std's, for instance for a new thread's stack, are
//! never refused. The C library's own `malloc` does not use these functions.

use std::cell::Cell;
use std::ffi::{c_int, c_long, c_void};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use pymalloc::ARENA_BYTES;

use super::common::Rng;

/// One call in this many is refused, inside [`amid`].
const REFUSED_ONE_IN: usize = 4;

#[derive(Clone, Copy)]
enum Call {
    Map,
    Unmap,
    Advise,
    Protect,
}

static REFUSED: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];

thread_local! {
    static AMID: Cell<bool> = const { Cell::new(false) };
    static RNG: Cell<u64> = const { Cell::new(0) };
}

/// Seeds this thread's faults.
pub(crate) fn seed(seed: u64) {
    RNG.set(seed);
}

/// Runs `body`. Meanwhile the OS may refuse this thread anything, so `body` must cope with null for small requests.
pub(crate) fn amid<R>(body: impl FnOnce() -> R) -> R {
    AMID.set(true);
    let result = body();
    AMID.set(false);
    result
}

fn refuses(call: Call) -> bool {
    if !AMID.get() {
        return false;
    }
    let mut rng = Rng::new(RNG.get());
    let drawn = rng.next();
    RNG.set(drawn);
    let refused = drawn.is_multiple_of(REFUSED_ONE_IN as u64);
    if refused {
        // Relaxed: a count that is printed.
        REFUSED[call as usize].fetch_add(1, Ordering::Relaxed);
        // SAFETY: libc's own thread-local.
        unsafe { *libc::__errno_location() = libc::ENOMEM };
    }
    refused
}

/// How often each call was refused so far.
pub(crate) struct Refused;

impl fmt::Display for Refused {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [map, unmap, advise, protect] = [Call::Map, Call::Unmap, Call::Advise, Call::Protect]
            .map(|call| REFUSED[call as usize].load(Ordering::Relaxed));
        write!(to, "{map} mmap, {unmap} munmap, {advise} madvise, {protect} mprotect")
    }
}

// SAFETY (of all four): the same contract as the C library's function of that name, whose system call they make.

#[unsafe(no_mangle)]
unsafe extern "C" fn mmap(
    start: *mut c_void,
    bytes: usize,
    access: c_int,
    flags: c_int,
    file: c_int,
    offset: i64,
) -> *mut c_void {
    if refuses(Call::Map) {
        return libc::MAP_FAILED;
    }
    // SAFETY: as the caller's.
    let start = unsafe { libc::syscall(libc::SYS_mmap, start, bytes, access, flags, file, offset) };
    std::ptr::with_exposed_provenance_mut(start as usize)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn munmap(start: *mut c_void, bytes: usize) -> c_int {
    // Only whole arenas: the allocator also cuts the ends off mappings that were too wide, and it would leak these if
    // that were refused.
    let arenas = start.addr().is_multiple_of(ARENA_BYTES) && bytes.is_multiple_of(ARENA_BYTES);
    if arenas && refuses(Call::Unmap) {
        return -1;
    }
    // SAFETY: as the caller's.
    status(unsafe { libc::syscall(libc::SYS_munmap, start, bytes) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn madvise(start: *mut c_void, bytes: usize, advice: c_int) -> c_int {
    if refuses(Call::Advise) {
        return -1;
    }
    // SAFETY: as the caller's.
    status(unsafe { libc::syscall(libc::SYS_madvise, start, bytes, advice) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn mprotect(start: *mut c_void, bytes: usize, access: c_int) -> c_int {
    if refuses(Call::Protect) {
        return -1;
    }
    // SAFETY: as the caller's.
    status(unsafe { libc::syscall(libc::SYS_mprotect, start, bytes, access) })
}

fn status(result: c_long) -> c_int {
    if result == 0 { 0 } else { -1 }
}
