//! A pair of fences of which one is free: what one thread does all the time costs nothing, what another does seldom
//! costs a system call.
//!
//! On Linux the light fence only binds the compiler, and the heavy one makes the kernel run a full fence on every
//! processor that runs a thread of this process (`membarrier(2)`, private expedited, since Linux 4.14; the pair is that
//! of Goldblatt, "Asymmetric fences", WG21 P1202). On Windows `FlushProcessWriteBuffers` does the same, and can't fail.
//! Elsewhere, and under Miri, both are full fences.

use core::sync::atomic::{Ordering, fence};

/// Whether the light fence leans on the heavy one's system call.
const BY_KERNEL: bool = cfg!(any(target_os = "linux", windows)) && !cfg!(miri);

/// The fence of the side that comes often.
///
/// # Memory ordering
/// Of a light fence in one thread and a heavy one in another, one comes first, as with two SeqCst fences: what was
/// written before it is seen by what is read after the other.
#[inline(always)]
pub(super) fn light_fence() {
    if BY_KERNEL {
        core::sync::atomic::compiler_fence(Ordering::SeqCst);
    } else {
        fence(Ordering::SeqCst);
    }
}

/// Prepares for [`heavy_fence`]; `false` if the kernel offers none, and then light fences order nothing.
pub(super) fn fences_work() -> bool {
    #[cfg(all(target_os = "linux", not(miri)))]
    return kernel::membarrier(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED);
    #[cfg(any(not(target_os = "linux"), miri))]
    true
}

/// The fence of the side that comes seldom: a microsecond or so. Call only after [`fences_work`] said so.
///
/// Aborts if the kernel has begun to refuse, which only a sandbox that was entered in between can bring about: nothing
/// that is right could be done then.
pub(super) fn heavy_fence() {
    fence(Ordering::SeqCst);
    #[cfg(all(target_os = "linux", not(miri)))]
    {
        let fenced = || kernel::membarrier(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED);
        // A second try, in case this is a forked child to which the first preparation does not count.
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

    /// On a line of its own.
    #[repr(align(128))]
    struct Word(AtomicUsize);

    /// Two threads that write and then read what the other wrote, at the same moment: without fences both miss it now
    /// and then, because a processor's write waits while it reads on.
    #[test]
    fn of_two_threads_that_write_and_then_read_one_sees_what_the_other_wrote() {
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
                    // The other one may wait for this processor.
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
