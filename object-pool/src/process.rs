//! The identity of the calling process, for data that `fork` may have copied.
//!
//! A process ID is not enough: a child that is the first process of a new namespace has the ID 1, and its parent may
//! have that, too. A handler of `pthread_atfork` is not enough either: containers are started by a raw `clone`, which
//! runs no handlers. On Linux, a word in an OS page that the kernel clears in every child shows the difference
//! (`MADV_WIPEONFORK`, since Linux 4.14, as is `membarrier`). Where the kernel has no such pages, or an emulator only
//! pretends to, the process ID is used alone.

/// The identity of a process. It differs from that of each ancestor that asked for its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Process {
    id: u32,
    generation: u64,
}

impl Process {
    pub(super) fn this() -> Self {
        // Some systems without `fork` have no process IDs.
        Self { id: if cfg!(unix) { std::process::id() } else { 0 }, generation: wiped::generation() }
    }
}

#[cfg(any(not(target_os = "linux"), miri))]
mod wiped {
    pub(super) fn generation() -> u64 {
        0
    }
}

#[cfg(all(target_os = "linux", not(miri)))]
mod wiped {
    use core::ptr;
    use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

    /// The address of the word: null before the first look, and the address of [`NONE`] if the kernel has no such word.
    static WORD: AtomicPtr<AtomicU64> = AtomicPtr::new(ptr::null_mut());
    static NONE: AtomicU64 = AtomicU64::new(0);
    /// The last generation of this process or an ancestor. The kernel does not clear it.
    static LAST: AtomicU64 = AtomicU64::new(0);

    /// The word that the kernel clears. This takes no lock, because a forked child might find it held.
    fn word() -> Option<&'static AtomicU64> {
        let none = (&raw const NONE).cast_mut();
        // Acquire: pairs with the Release below.
        let mut word = WORD.load(Ordering::Acquire);
        if word.is_null() {
            let new = map().unwrap_or(none);
            // Release: pairs with both Acquires: the mapping comes before its use. Acquire: as above.
            match WORD.compare_exchange(word, new, Ordering::Release, Ordering::Acquire) {
                Ok(_) => word = new,
                Err(first) => {
                    if new != none {
                        // SAFETY: mapped just now, and nobody else has seen it.
                        unsafe { libc::munmap(new.cast(), size_of::<AtomicU64>()) };
                    }
                    word = first;
                }
            }
        }
        // SAFETY: the static, or the start of a mapping that stays.
        (word != none).then(|| unsafe { &*word })
    }

    /// Maps an OS page of zeroes that the kernel clears in each child. (The kernel rounds the length up to a page.)
    fn map() -> Option<*mut AtomicU64> {
        let bytes = size_of::<AtomicU64>();
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping, somewhere.
        let start =
            unsafe { libc::mmap(ptr::null_mut(), bytes, access, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0) };
        if start == libc::MAP_FAILED {
            return None;
        }
        // SAFETY: the mapping from just above, which no other thread knows.
        unsafe {
            if libc::madvise(start, bytes, libc::MADV_WIPEONFORK) == 0 {
                return Some(start.cast());
            }
            libc::munmap(start, bytes);
        }
        None
    }

    /// A number that differs from those of all ancestors of the process; 0 if the kernel has no such OS pages.
    pub(super) fn generation() -> u64 {
        let Some(word) = word() else { return 0 };
        // Relaxed (all): the number is the same for all threads of a process, whichever of them writes it first.
        let known = word.load(Ordering::Relaxed);
        if known != 0 {
            return known;
        }
        let new = 1 + LAST.fetch_add(1, Ordering::Relaxed);
        word.compare_exchange(0, new, Ordering::Relaxed, Ordering::Relaxed).map_or_else(|first| first, |_| new)
    }
}

#[cfg(all(test, target_os = "linux", not(miri)))]
mod tests {
    use super::wiped::generation;

    /// Runs `body` in a child that is made without handlers of `pthread_atfork`; returns what `body` returned.
    fn in_cloned_child(body: impl FnOnce() -> bool) -> bool {
        let (flags, none) = (libc::c_long::from(libc::SIGCHLD), 0 as libc::c_long);
        // SAFETY: a copy of this process on a copy of this stack; its only thread takes no lock.
        let child = unsafe { libc::syscall(libc::SYS_clone, flags, none, none, none, none) };
        if child == 0 {
            // SAFETY: always allowed.
            unsafe { libc::_exit(if body() { 0 } else { 1 }) };
        }
        let (child, mut status) = (libc::pid_t::try_from(child).expect("a process"), 0);
        // SAFETY: our own child, waited for once.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        status == 0
    }

    #[test]
    fn a_process_keeps_its_generation() {
        let here = generation();
        assert_eq!(std::thread::spawn(generation).join().unwrap(), here);
        assert!(!in_cloned_child(|| generation() == here));
        assert_eq!(generation(), here);
    }

    #[test]
    fn each_child_differs_from_all_its_ancestors() {
        let first = generation();
        assert_ne!(first, 0, "a kernel that clears OS pages on fork");
        assert!(in_cloned_child(|| {
            let second = generation();
            let third_differs = || ![first, second].contains(&generation());
            second != first && second == generation() && in_cloned_child(third_differs)
        }));
    }
}
