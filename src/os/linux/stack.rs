//! Which memory can be read: for the tracer's walk up a stack whose bounds it does not know.

/// Whether the word at `address` can be read. Takes no lock, allocates nothing, is no cancellation point, and leaves
/// `errno` alone.
///
/// `rt_sigprocmask` copies the new set before it looks at the operation. The operation here is not a valid one, so the
/// call fails in any case, and changes nothing; the error says whether the set could be read. (abseil asks the kernel
/// in the same way.)
pub(crate) fn is_readable(address: usize) -> bool {
    const NO_ORDER: usize = usize::MAX;
    // The word may be of any alignment, and the kernel's set is one word.
    let error = sigprocmask(NO_ORDER, address);
    // Null stands for no set, and the kernel does not look there.
    address != 0 && error != -(libc::EFAULT as isize)
}

/// The raw call: libc's function would write `errno`, and refuse the operation itself.
#[cfg(all(target_arch = "x86_64", not(miri)))]
fn sigprocmask(order: usize, set: usize) -> isize {
    let result: isize;
    // SAFETY: the kernel reads a word at `set`, or refuses it; it writes nothing, because there is no place for an old
    // set.
    unsafe {
        core::arch::asm!(
            "syscall",
            inlateout("rax") libc::SYS_rt_sigprocmask as isize => result,
            in("rdi") order,
            in("rsi") set,
            in("rdx") 0_usize,
            in("r10") size_of::<u64>(),
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result
}

/// As above.
#[cfg(all(target_arch = "aarch64", not(miri)))]
fn sigprocmask(order: usize, set: usize) -> isize {
    let result: isize;
    // SAFETY: as above.
    unsafe {
        core::arch::asm!(
            "svc 0",
            in("x8") libc::SYS_rt_sigprocmask,
            inlateout("x0") order as isize => result,
            in("x1") set,
            in("x2") 0_usize,
            in("x3") size_of::<u64>(),
            options(nostack),
        );
    }
    result
}

/// On other processors no stack is walked.
#[cfg(any(miri, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
fn sigprocmask(_order: usize, _set: usize) -> isize {
    -(libc::EFAULT as isize)
}

#[cfg(all(test, not(miri), any(target_arch = "x86_64", target_arch = "aarch64")))]
mod tests {
    use super::*;

    #[test]
    fn what_is_mapped_readable_can_be_read_and_nothing_else() {
        let local = 7_u64;
        // SAFETY: libc's own thread-local.
        let errno = unsafe { *libc::__errno_location() };
        assert!(is_readable((&raw const local).addr()));
        assert!(!is_readable(0));
        assert!(!is_readable(usize::MAX - 7));
        assert!(!is_readable(1 << 63));
        // SAFETY: a mapping of the test's own.
        let guard = unsafe {
            libc::mmap(core::ptr::null_mut(), 4096, libc::PROT_NONE, libc::MAP_PRIVATE | libc::MAP_ANON, -1, 0)
        };
        assert!(!is_readable(guard.addr()));
        // SAFETY: as above; given back once.
        unsafe {
            assert_eq!(libc::munmap(guard, 4096), 0);
            assert_eq!(*libc::__errno_location(), errno);
        }
    }
}
