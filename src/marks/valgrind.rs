//! Valgrind's client requests.
//!
//! The instructions and numbers are the published interface of `valgrind.h` and `memcheck.h` (which are under a BSD
//! licence, so that programs may contain them): four rotations that together change nothing, and an exchange of a
//! register with itself. Valgrind knows the sequence; a processor does nothing by it.

/// Whether a tool is told.
pub(crate) const IS_ON: bool = true;

/// Closed bytes behind each block, at least.
pub(crate) const PAD_BYTES: usize = 16;

const MALLOCLIKE_BLOCK: usize = 0x1301;
const FREELIKE_BLOCK: usize = 0x1302;
const RESIZEINPLACE_BLOCK: usize = 0x130b;
const MAKE_MEM_NOACCESS: usize = 0x4d43_0000;
const MAKE_MEM_UNDEFINED: usize = 0x4d43_0001;

/// Asks valgrind, if the program runs on it, to do what `request` says.
#[inline(never)]
fn ask(request: usize, arguments: [usize; 4]) {
    let [first, second, third, fourth] = arguments;
    let block = [request, first, second, third, fourth, 0];
    // SAFETY: changes one register, to its own value (valgrind: to the result), and the flags.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        core::arch::asm!(
            "rol rdi, 3",
            "rol rdi, 13",
            "rol rdi, 61",
            "rol rdi, 51",
            "xchg rbx, rbx",
            in("rax") block.as_ptr(),
            inout("rdx") 0_usize => _,
            // Named, so that the compiler has nothing in it that matters less than it would: rotated by 128 bits.
            inout("rdi") 0_usize => _,
            options(nostack),
        );
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        core::arch::asm!(
            "ror x12, x12, #3",
            "ror x12, x12, #13",
            "ror x12, x12, #51",
            "ror x12, x12, #61",
            "orr x10, x10, x10",
            in("x4") block.as_ptr(),
            inout("x3") 0_usize => _,
            inout("x12") 0_usize => _,
            options(nostack),
        );
    }
    core::hint::black_box(&block);
}

/// An arena was mapped: nothing in it is anybody's.
pub(crate) fn fresh(start: *mut u8, bytes: usize) {
    ask(MAKE_MEM_NOACCESS, [start.addr(), bytes, 0, 0]);
}

/// An arena is about to be unmapped.
pub(crate) fn gone(start: *mut u8, bytes: usize) {
    ask(MAKE_MEM_UNDEFINED, [start.addr(), bytes, 0, 0]);
}

/// A block was handed out, for a request of so many bytes, or null.
pub(crate) fn allocated(block: *mut u8, bytes: usize) -> *mut u8 {
    if !block.is_null() {
        // No pads to be noted: what lies behind is closed anyway. Not zeroed: who clears it does so afterwards.
        ask(MALLOCLIKE_BLOCK, [block.addr(), bytes, 0, 0]);
    }
    block
}

/// A block of a request of so many bytes is about to be freed.
pub(crate) fn freed(block: *mut u8, _bytes: usize) {
    ask(FREELIKE_BLOCK, [block.addr(), 0, 0, 0]);
}

/// A block stays where it is, for a request of so many bytes.
pub(crate) fn resized(block: *mut u8, old_bytes: usize, new_bytes: usize) {
    ask(RESIZEINPLACE_BLOCK, [block.addr(), old_bytes, new_bytes, 0]);
}
