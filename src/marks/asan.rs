//! AddressSanitizer's manual poisoning.
//!
//! The two functions are those of `sanitizer/asan_interface.h`. They are named weakly, by assembly (Rust's own weak
//! linkage is unstable): in a program without AddressSanitizer their addresses are 0.

/// Whether a tool is told.
pub(crate) const IS_ON: bool = true;

/// Closed bytes behind each block, at least.
pub(crate) const PAD_BYTES: usize = 16;

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
core::arch::global_asm!(".weak __asan_poison_memory_region", ".weak __asan_unpoison_memory_region");

/// The address in the entry of the global offset table of a symbol: 0 if nobody defines it.
macro_rules! address_of {
    ($symbol:literal) => {{
        let address: usize;
        // SAFETY: reads an entry that the linker made.
        unsafe {
            #[cfg(target_arch = "x86_64")]
            core::arch::asm!(
                concat!("mov {}, qword ptr [rip + ", $symbol, "@GOTPCREL]"),
                out(reg) address,
                options(pure, readonly, nostack, preserves_flags),
            );
            #[cfg(target_arch = "aarch64")]
            core::arch::asm!(
                concat!("adrp {0}, :got:", $symbol),
                concat!("ldr {0}, [{0}, :got_lo12:", $symbol, "]"),
                out(reg) address,
                options(pure, readonly, nostack, preserves_flags),
            );
        }
        // Refused, in one error (`marks`).
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        {
            address = 0;
        }
        address
    }};
}

fn call(function: usize, start: *mut u8, bytes: usize) {
    if function != 0 {
        // SAFETY: a function of that type, which only writes AddressSanitizer's own notes on the range.
        unsafe {
            let function: unsafe extern "C" fn(*mut u8, usize) =
                core::mem::transmute(core::ptr::with_exposed_provenance::<()>(function));
            function(start, bytes);
        }
    }
}

fn close(start: *mut u8, bytes: usize) {
    call(address_of!("__asan_poison_memory_region"), start, bytes);
}

fn open(start: *mut u8, bytes: usize) {
    call(address_of!("__asan_unpoison_memory_region"), start, bytes);
}

/// An arena was mapped: nothing in it is anybody's.
pub(crate) fn fresh(start: *mut u8, bytes: usize) {
    close(start, bytes);
}

/// An arena is about to be unmapped: its addresses may be anybody's next.
pub(crate) fn gone(start: *mut u8, bytes: usize) {
    open(start, bytes);
}

/// A block was handed out, for a request of so many bytes, or null.
pub(crate) fn allocated(block: *mut u8, bytes: usize) -> *mut u8 {
    if !block.is_null() {
        open(block, bytes);
    }
    block
}

/// A block of a request of so many bytes is about to be freed.
pub(crate) fn freed(block: *mut u8, bytes: usize) {
    close(block, bytes);
}

/// A block stays where it is, for a request of so many bytes.
pub(crate) fn resized(block: *mut u8, old_bytes: usize, new_bytes: usize) {
    open(block, new_bytes);
    if new_bytes < old_bytes {
        // From the first whole group of 8 bytes on; a group of which the head is open is noted as such.
        close(block.wrapping_add(new_bytes), old_bytes - new_bytes);
    }
}
