//! The thread slot's place: one thread-local word that holds the address of the thread's cache.
//!
//! The compiler makes std's `thread_local!` a load at a fixed offset from the thread pointer only where it sees the
//! whole program: with link-time optimisation. Elsewhere each allocation would call std's accessor, and in a shared
//! library `__tls_get_addr`. So the word is defined and read in assembly. (Only an unstable option can choose the model
//! of Rust's own thread-locals.)
//!
//! - *Descriptors*, in programs and their libraries: a call through a descriptor returns the word's offset. In a
//!   program, the linker replaces the call by a constant and a no-op. In a library the call stays, and the library can
//!   be opened at any time: its thread-locals need no room in *static TLS*, the block that the loader gave the first
//!   thread, which has little room.
//! - *Initial-exec*, in the preload library: the offset is looked up once, when the library is loaded, and then read
//!   from a table. That needs static TLS, which has room at the program's start. A descriptor would not do: its call
//!   may allocate, which it must not do inside `malloc`.
//! - *Windows*: the program or library has a number. By this number, the thread's block (the TEB) leads to the thread's
//!   copy of the thread-locals, where the word has a fixed place. That takes four loads and no call, in programs and
//!   libraries alike. (With MinGW, std's thread-locals allocate, and a slot for the cache must not.)

use super::ThreadCache;

/// Stands in for the cache of a thread that has none yet.
static UNATTACHED: ThreadCache = ThreadCache::stand_in();
/// Stands in for the cache of a thread that gave its own up.
pub(super) static ENDED: ThreadCache = ThreadCache::stand_in();

// Assembly is used only where it was tested: on x86-64 with glibc and on Windows; for the preload library also on
// aarch64.
#[cfg(not(any(
    all(
        target_os = "linux",
        any(
            all(feature = "__raw", any(target_arch = "x86_64", target_arch = "aarch64")),
            all(target_arch = "x86_64", target_env = "gnu"),
        ),
        not(miri)
    ),
    all(windows, target_arch = "x86_64", not(miri)),
)))]
mod place {
    use core::cell::Cell;

    use super::ThreadCache;
    use super::UNATTACHED;

    thread_local! {
        static SLOT: Cell<&'static ThreadCache> = const { Cell::new(&UNATTACHED) };
    }

    #[inline(always)]
    pub(super) fn get() -> &'static ThreadCache {
        SLOT.with(Cell::get)
    }

    #[cfg(feature = "__raw")]
    #[inline(always)]
    pub(super) fn get_plus(bytes: usize) -> *const u8 {
        core::ptr::from_ref(get()).cast::<u8>().wrapping_add(bytes)
    }

    pub(super) fn set(cache: &'static ThreadCache) {
        SLOT.set(cache);
    }
}

/// The word's symbol. It names the crate's version, because a program may have several.
#[cfg(not(miri))]
#[allow(unused_macros, reason = "not where std's thread-local is used")]
macro_rules! slot {
    ($before:literal, $behind:literal) => {
        concat!(
            $before,
            "pymalloc_thread_slot_",
            env!("CARGO_PKG_VERSION_MAJOR"),
            "_",
            env!("CARGO_PKG_VERSION_MINOR"),
            "_",
            env!("CARGO_PKG_VERSION_PATCH"),
            $behind
        )
    };
}

#[cfg(all(windows, target_arch = "x86_64", not(miri)))]
mod place {
    use core::arch::{asm, global_asm};

    use super::ThreadCache;
    use super::UNATTACHED;

    // The linker sorts the sections by name, so this one lies between the C library's `.tls` and `.tls$ZZZ`. Each
    // thread gets a copy of them all.
    global_asm!(
        ".section .tls$PYM, \"dw\"",
        ".p2align 3",
        slot!(".globl ", ""),
        slot!("", ":"),
        ".quad {unattached}",
        ".text",
        unattached = sym UNATTACHED,
    );

    /// Runs `$then` with the address of the thread's copy of the module's thread-locals in `{result}`. `gs:[0x58]`
    /// holds the table of these copies, and `_tls_index` is the module's place in the table.
    macro_rules! copy {
        ($then:expr => $result:ident, $($option:ident),*) => {
            asm!(
                "mov {index:e}, dword ptr [rip + _tls_index]",
                "mov {result}, qword ptr gs:[0x58]",
                "mov {result}, qword ptr [{result} + 8*{index}]",
                $then,
                index = out(reg) _,
                result = out(reg) $result,
                options($($option,)* nostack, preserves_flags),
            )
        };
    }

    #[inline(always)]
    pub(super) fn get() -> &'static ThreadCache {
        let cache: *const ThreadCache;
        // SAFETY: reads this thread's word, which always holds the address of a cache; caches live for ever.
        unsafe {
            copy!(slot!("mov {result}, qword ptr [{result} + ", "@SECREL32]") => cache, pure, readonly);
            &*cache
        }
    }

    #[cfg(feature = "__raw")]
    #[inline(always)]
    pub(super) fn get_plus(bytes: usize) -> *const u8 {
        core::ptr::from_ref(get()).cast::<u8>().wrapping_add(bytes)
    }

    pub(super) fn set(cache: &'static ThreadCache) {
        let place: usize;
        // SAFETY: the assembly reads only constants of the thread. The word is this thread's, and is only read as a
        // whole, by `get`.
        unsafe {
            copy!(slot!("lea {result}, [{result} + ", "@SECREL32]") => place, readonly);
            core::ptr::with_exposed_provenance_mut::<&'static ThreadCache>(place).write_volatile(cache);
        }
    }
}

#[cfg(all(
    target_os = "linux",
    any(
        all(feature = "__raw", any(target_arch = "x86_64", target_arch = "aarch64")),
        all(target_arch = "x86_64", target_env = "gnu"),
    ),
    not(miri)
))]
mod place {
    use core::arch::{asm, global_asm};

    use super::ThreadCache;
    use super::UNATTACHED;

    /// Asks the word's descriptor for its offset, and runs `$then` with the offset in `rax`. The linker recognises the
    /// first two instructions in this form only.
    ///
    /// By its specification, the call preserves all other registers. But before 2.40, glibc lost vector registers when
    /// it gave a thread its copy of the library's thread-locals. So they are declared as clobbered.
    #[cfg(not(feature = "__raw"))]
    macro_rules! descriptor {
        ($then:literal => $result:ident, $($option:ident),*) => {
            asm!(
                slot!("leaq ", "@TLSDESC(%rip), %rax"),
                slot!("call *", "@TLSCALL(%rax)"),
                $then,
                out("rax") $result,
                out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
                out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
                out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
                out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
                out("xmm16") _, out("xmm17") _, out("xmm18") _, out("xmm19") _,
                out("xmm20") _, out("xmm21") _, out("xmm22") _, out("xmm23") _,
                out("xmm24") _, out("xmm25") _, out("xmm26") _, out("xmm27") _,
                out("xmm28") _, out("xmm29") _, out("xmm30") _, out("xmm31") _,
                out("k1") _, out("k2") _, out("k3") _, out("k4") _, out("k5") _, out("k6") _, out("k7") _,
                options($($option,)* att_syntax),
            )
        };
    }

    // The initial value is an address, which the dynamic linker fills in before it copies the value to any thread.
    global_asm!(
        ".pushsection .tdata, \"awT\", %progbits",
        ".p2align 3",
        slot!(".globl ", ""),
        slot!(".hidden ", ""),
        slot!(".type ", ", %tls_object"),
        slot!(".size ", ", 8"),
        slot!("", ":"),
        ".quad {unattached}",
        ".popsection",
        unattached = sym UNATTACHED,
    );

    #[inline(always)]
    pub(super) fn get() -> &'static ThreadCache {
        let cache: *const ThreadCache;
        // SAFETY: reads this thread's word, which always holds the address of a cache; caches live for ever.
        unsafe {
            #[cfg(not(feature = "__raw"))]
            descriptor!("movq %fs:(%rax), %rax" => cache, pure, readonly);
            #[cfg(all(feature = "__raw", target_arch = "x86_64"))]
            asm!(
                slot!("mov {cache}, qword ptr [rip + ", "@GOTTPOFF]"),
                "mov {cache}, qword ptr fs:[{cache}]",
                cache = out(reg) cache,
                options(pure, readonly, nostack, preserves_flags),
            );
            #[cfg(target_arch = "aarch64")]
            asm!(
                slot!("adrp {cache}, :gottprel:", ""),
                slot!("ldr {cache}, [{cache}, :gottprel_lo12:", "]"),
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
    #[cfg(all(feature = "__raw", target_arch = "x86_64"))]
    pub(super) fn get_plus(bytes: usize) -> *const u8 {
        let place: *const u8;
        // SAFETY: reads this thread's word, as `get` does.
        unsafe {
            asm!(
                slot!("mov {offset}, qword ptr [rip + ", "@GOTTPOFF]"),
                "add {place}, qword ptr fs:[{offset}]",
                offset = out(reg) _,
                place = inout(reg) bytes => place,
                options(pure, readonly, nostack),
            );
        }
        place
    }

    #[inline(always)]
    #[cfg(all(feature = "__raw", target_arch = "aarch64"))]
    pub(super) fn get_plus(bytes: usize) -> *const u8 {
        core::ptr::from_ref(get()).cast::<u8>().wrapping_add(bytes)
    }

    pub(super) fn set(cache: &'static ThreadCache) {
        // SAFETY: the word is this thread's, and is only read as a whole, by `get`.
        unsafe { core::ptr::with_exposed_provenance_mut::<&'static ThreadCache>(address()).write_volatile(cache) }
    }

    fn address() -> usize {
        let address;
        // SAFETY: the thread pointer and an offset: the assembly reads only constants of the thread.
        unsafe {
            #[cfg(not(feature = "__raw"))]
            descriptor!("addq %fs:0, %rax" => address,);
            #[cfg(all(feature = "__raw", target_arch = "x86_64"))]
            asm!(
                "mov {address}, qword ptr fs:[0]",
                slot!("add {address}, qword ptr [rip + ", "@GOTTPOFF]"),
                address = out(reg) address,
                options(readonly, nostack),
            );
            #[cfg(target_arch = "aarch64")]
            asm!(
                slot!("adrp {address}, :gottprel:", ""),
                slot!("ldr {address}, [{address}, :gottprel_lo12:", "]"),
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

/// The address `bytes` behind the cache's start, by one instruction where that is possible.
#[cfg(feature = "__raw")]
#[inline(always)]
pub(super) fn get_plus(bytes: usize) -> *const u8 {
    place::get_plus(bytes)
}

/// Points the calling thread's slot at `cache`.
pub(super) fn set(cache: &'static ThreadCache) {
    place::set(cache);
}
