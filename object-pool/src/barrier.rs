//! A pair of fences. The light one costs nothing, for what a thread does all the time; the heavy one costs a system
//! call, for what a thread does seldom.
//!
//! On Linux the light fence only binds the compiler, and the heavy one makes the kernel run a full fence on every
//! processor that runs a thread of this process (`membarrier(2)`, private expedited, since Linux 4.14). Goldblatt
//! describes the pair ("Asymmetric fences", WG21 P1202). On Windows `FlushProcessWriteBuffers` does the same, and can't
//! fail. Elsewhere, and under Miri, both are full fences.

use core::sync::atomic::{Ordering, fence};

/// Whether the light fence relies on the system call of the heavy one.
const BY_KERNEL: bool = cfg!(any(target_os = "linux", windows)) && !cfg!(miri);

/// The fence of the frequent side.
///
/// # Memory ordering
/// As with two SeqCst fences, either the light fence of one thread or the heavy fence of another comes first. Reads
/// after the later fence see the writes before the earlier one.
#[inline(always)]
pub(super) fn light_fence() {
    if BY_KERNEL {
        core::sync::atomic::compiler_fence(Ordering::SeqCst);
    } else {
        fence(Ordering::SeqCst);
    }
}

/// Prepares for [`heavy_fence`]. Returns `false` if the kernel offers no heavy fence; light fences then order nothing.
pub(super) fn fences_work() -> bool {
    #[cfg(all(target_os = "linux", not(miri)))]
    return kernel::membarrier(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED);
    #[cfg(any(not(target_os = "linux"), miri))]
    true
}

/// The fence of the rare side: a microsecond or so. Call it only after [`fences_work`] returned `true`.
///
/// Aborts if the kernel refuses the fence by now. Only a sandbox that was entered in between can cause that, and there
/// is no correct way to go on.
pub(super) fn heavy_fence() {
    fence(Ordering::SeqCst);
    #[cfg(all(target_os = "linux", not(miri)))]
    {
        let fenced = || kernel::membarrier(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED);
        // The second try is for a forked child, in which the parent's preparation does not count.
        let fenced = fenced() || (fences_work() && fenced());
        if !fenced {
            let message = b"pymalloc-object-pool: the kernel no longer allows membarrier, which pools began to use\n";
            // Nobody is left to tell if it fails.
            let _ = std::io::Write::write_all(&mut std::io::stderr(), message);
            std::process::abort();
        }
    }
    #[cfg(all(windows, not(miri)))]
    kernel::flush_write_buffers();
    fence(Ordering::SeqCst);
}

#[cfg(all(target_os = "linux", not(miri)))]
mod kernel {
    pub(super) fn membarrier(command: libc::c_int) -> bool {
        // SAFETY: the call takes numbers only and changes no memory but errno.
        unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 }
    }
}

#[cfg(all(windows, not(miri)))]
mod kernel {
    #[link(name = "kernel32")]
    unsafe extern "system" {
        safe fn FlushProcessWriteBuffers();
    }

    pub(super) fn flush_write_buffers() {
        FlushProcessWriteBuffers();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::AtomicUsize;
    use std::hint::spin_loop;
    use std::thread;

    /// A word on a cache line of its own.
    #[repr(align(128))]
    struct Word(AtomicUsize);

    /// At the same moment, two threads each write a word and then read the other's. Without fences, both miss the
    /// other's write now and then, because a processor goes on to read while its write waits.
    #[test]
    fn when_two_threads_write_and_then_read_at_least_one_sees_the_others_write() {
        const ROUNDS: usize = if cfg!(miri) { 300 } else { 30_000 };
        assert!(fences_work(), "a kernel that offers the fence");
        let words = [const { Word(AtomicUsize::new(0)) }; 2];
        let arrived = Word(AtomicUsize::new(0));
        let run = |own: usize, fence: fn()| -> Vec<bool> {
            let round = |round| {
                arrived.0.fetch_add(1, Ordering::Relaxed);
                for looks in 1.. {
                    if arrived.0.load(Ordering::Relaxed) >= 2 * round {
                        break;
                    }
                    // The other thread may be waiting for this processor.
                    if looks % 1000 == 0 { thread::yield_now() } else { spin_loop() }
                }
                words[own].0.store(round, Ordering::Relaxed);
                fence();
                words[1 - own].0.load(Ordering::Relaxed) == round
            };
            (1..=ROUNDS).map(round).collect()
        };
        let (often, seldom) = thread::scope(|scope| {
            let often = scope.spawn(|| run(0, light_fence));
            (run(1, heavy_fence), often.join().expect("it does not panic"))
        });
        let missed = often.iter().zip(&seldom).filter(|seen| matches!(seen, (false, false))).count();
        assert_eq!(missed, 0, "of {ROUNDS} rounds");
    }
}
