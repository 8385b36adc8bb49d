//! The thread slot's place: one thread-local word that holds the address of the thread's cache.
//!
//! In a program, the compiler and the linker make std's `thread_local!` a load at a fixed offset from the thread's
//! pointer. In a shared library it is a call of `__tls_get_addr`, on every allocation. So with the feature `raw`, which the
//! preload library is built with, the word is defined and read in assembly, by the *initial-exec* model: its offset is
//! looked up once, when the library is loaded, and read from a table. (The model can be chosen for Rust's own thread-locals
//! by an unstable option only.) The word takes 8 bytes of the static TLS block, so that even `dlopen` has room for it.

use super::ThreadCache;

#[cfg(not(all(
    feature = "raw",
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64"),
    not(miri)
)))]
mod place {
    use core::cell::Cell;
    use core::ptr;

    use super::ThreadCache;
    use crate::cache::slot::UNATTACHED;

    thread_local! {
        static SLOT: Cell<&'static ThreadCache> = const { Cell::new(&UNATTACHED) };
    }

    #[inline(always)]
    pub(super) fn get() -> &'static ThreadCache {
        SLOT.with(Cell::get)
    }

    #[cfg(feature = "raw")]
    #[inline(always)]
    pub(super) fn get_plus(bytes: usize) -> *const u8 {
        ptr::from_ref(get()).cast::<u8>().wrapping_add(bytes)
    }

    pub(super) fn set(cache: &'static ThreadCache) {
        SLOT.set(cache);
    }

    pub(super) fn address() -> usize {
        SLOT.with(|slot| ptr::from_ref(slot).addr())
    }
}

#[cfg(all(feature = "raw", target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"), not(miri)))]
mod place {
    use core::arch::{asm, global_asm};

    use super::ThreadCache;
    use crate::cache::slot::UNATTACHED;

    // The initial value is an address, which the dynamic linker fills in before it copies the value to any thread.
    global_asm!(
        ".pushsection .tdata, \"awT\", %progbits",
        ".p2align 3",
        ".globl pymalloc_thread_slot",
        ".hidden pymalloc_thread_slot",
        ".type pymalloc_thread_slot, %tls_object",
        ".size pymalloc_thread_slot, 8",
        "pymalloc_thread_slot:",
        ".quad {unattached}",
        ".popsection",
        unattached = sym UNATTACHED,
    );

    #[inline(always)]
    pub(super) fn get() -> &'static ThreadCache {
        let cache: *const ThreadCache;
        // SAFETY: reads this thread's word, which always holds the address of a cache; caches live for ever.
        unsafe {
            #[cfg(target_arch = "x86_64")]
            asm!(
                "mov {cache}, qword ptr [rip + pymalloc_thread_slot@GOTTPOFF]",
                "mov {cache}, qword ptr fs:[{cache}]",
                cache = out(reg) cache,
                options(pure, readonly, nostack, preserves_flags),
            );
            #[cfg(target_arch = "aarch64")]
            asm!(
                "adrp {cache}, :gottprel:pymalloc_thread_slot",
                "ldr {cache}, [{cache}, :gottprel_lo12:pymalloc_thread_slot]",
                "mrs {thread}, tpidr_el0",
                "ldr {cache}, [{thread}, {cache}]",
                cache = out(reg) cache,
                thread = out(reg) _,
                options(pure, readonly, nostack, preserves_flags),
            );
            &*cache
        }
    }

    #[inline(always)]
    #[cfg(target_arch = "x86_64")]
    pub(super) fn get_plus(bytes: usize) -> *const u8 {
        let place: *const u8;
        // SAFETY: reads this thread's word, as `get` does.
        unsafe {
            asm!(
                "mov {offset}, qword ptr [rip + pymalloc_thread_slot@GOTTPOFF]",
                "add {place}, qword ptr fs:[{offset}]",
                offset = out(reg) _,
                place = inout(reg) bytes => place,
                options(pure, readonly, nostack),
            );
        }
        place
    }

    #[inline(always)]
    #[cfg(target_arch = "aarch64")]
    pub(super) fn get_plus(bytes: usize) -> *const u8 {
        core::ptr::from_ref(get()).cast::<u8>().wrapping_add(bytes)
    }

    pub(super) fn set(cache: &'static ThreadCache) {
        // SAFETY: the word is this thread's, and is only read as a whole, by `get`.
        unsafe { core::ptr::with_exposed_provenance_mut::<&'static ThreadCache>(address()).write_volatile(cache) }
    }

    pub(super) fn address() -> usize {
        let address;
        // SAFETY: the thread's pointer and an offset; no memory but constants of the thread is read.
        unsafe {
            #[cfg(target_arch = "x86_64")]
            asm!(
                "mov {address}, qword ptr fs:[0]",
                "add {address}, qword ptr [rip + pymalloc_thread_slot@GOTTPOFF]",
                address = out(reg) address,
                options(readonly, nostack),
            );
            #[cfg(target_arch = "aarch64")]
            asm!(
                "adrp {address}, :gottprel:pymalloc_thread_slot",
                "ldr {address}, [{address}, :gottprel_lo12:pymalloc_thread_slot]",
                "mrs {thread}, tpidr_el0",
                "add {address}, {address}, {thread}",
                address = out(reg) address,
                thread = out(reg) _,
                options(readonly, nostack),
            );
        }
        address
    }
}

/// The cache that the calling thread's slot points at.
#[inline(always)]
pub(super) fn get() -> &'static ThreadCache {
    place::get()
}

/// The address so many bytes behind the cache's start, in one instruction where that can be.
#[cfg(feature = "raw")]
#[inline(always)]
pub(super) fn get_plus(bytes: usize) -> *const u8 {
    place::get_plus(bytes)
}

/// Points the calling thread's slot at `cache`.
pub(super) fn set(cache: &'static ThreadCache) {
    place::set(cache);
}

/// Where the calling thread's slot is: never 0, and no other thread's at the same time.
pub(super) fn address() -> usize {
    place::address()
}
