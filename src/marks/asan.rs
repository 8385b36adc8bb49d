//! AddressSanitizer's manual poisoning.
//!
//! The two functions are those of `sanitizer/asan_interface.h`. They are weak symbols, declared in assembly because
//! Rust's own weak linkage is unstable. In a program without AddressSanitizer their addresses are 0.

/// Whether a tool gets the marks.
pub(crate) const IS_ON: bool = true;

/// Least closed bytes behind each block.
pub(crate) const PAD_BYTES: usize = 16;

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
core::arch::global_asm!(".weak __asan_poison_memory_region", ".weak __asan_unpoison_memory_region");

/// The address of a symbol, from its entry in the global offset table: 0 if the symbol is not defined.
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
        // Other targets are refused by one compile error (`marks`).
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

/// Marks a new arena: none of its bytes may be used.
pub(crate) fn fresh(start: *mut u8, bytes: usize) {
    close(start, bytes);
}

/// Clears the marks of an arena that is about to be unmapped: other mappings may get its addresses.
pub(crate) fn gone(start: *mut u8, bytes: usize) {
    open(start, bytes);
}

/// Opens `bytes` of a block that was handed out; `block` may be null.
pub(crate) fn allocated(block: *mut u8, bytes: usize) -> *mut u8 {
    if !block.is_null() {
        open(block, bytes);
    }
    block
}

/// Closes a block that is about to be freed and was requested with `bytes`.
pub(crate) fn freed(block: *mut u8, bytes: usize) {
    close(block, bytes);
}

/// Marks a block that stays in place and now serves a request of `new_bytes`.
pub(crate) fn resized(block: *mut u8, old_bytes: usize, new_bytes: usize) {
    open(block, new_bytes);
    if new_bytes < old_bytes {
        // AddressSanitizer closes from the first whole group of 8 bytes on, and notes how many bytes of the group
        // before are open.
        close(block.wrapping_add(new_bytes), old_bytes - new_bytes);
    }
}
