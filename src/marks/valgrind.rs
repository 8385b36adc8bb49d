//! Valgrind's client requests.
//!
//! The instructions and numbers are the published interface of `valgrind.h` and `memcheck.h` (which are under a BSD
//! licence, so that programs may contain them): four rotations that together change nothing, and an exchange of a
//! register with itself. Valgrind recognises the sequence; on a processor it has no effect.

/// Whether a tool gets the marks.
pub(crate) const IS_ON: bool = true;

/// Least closed bytes behind each block.
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
            // Named as an operand, so that the compiler keeps nothing else in the register that is rotated.
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

/// Marks a new arena: none of its bytes may be used.
pub(crate) fn fresh(start: *mut u8, bytes: usize) {
    ask(MAKE_MEM_NOACCESS, [start.addr(), bytes, 0, 0]);
}

/// Clears the marks of an arena that is about to be unmapped.
pub(crate) fn gone(start: *mut u8, bytes: usize) {
    ask(MAKE_MEM_UNDEFINED, [start.addr(), bytes, 0, 0]);
}

/// Opens `bytes` of a block that was handed out; `block` may be null.
pub(crate) fn allocated(block: *mut u8, bytes: usize) -> *mut u8 {
    if !block.is_null() {
        // The two zeroes: no pads, because the bytes behind the block are closed anyway; and not zeroed yet, because a
        // caller that clears the block does so afterwards.
        ask(MALLOCLIKE_BLOCK, [block.addr(), bytes, 0, 0]);
    }
    block
}

/// Closes a block that is about to be freed.
pub(crate) fn freed(block: *mut u8, _bytes: usize) {
    ask(FREELIKE_BLOCK, [block.addr(), 0, 0, 0]);
}

/// Marks a block that stays in place and now serves a request of `new_bytes`.
pub(crate) fn resized(block: *mut u8, old_bytes: usize, new_bytes: usize) {
    ask(RESIZEINPLACE_BLOCK, [block.addr(), old_bytes, new_bytes, 0]);
}
