//! By which system calls many ranges are purged, seen from sandboxes without one of them.

#[path = "../../tests/common/sandbox.rs"]
mod sandbox;

use super::purge_batches::{every_second_page, page_bytes};
use super::system::alone;
use crate::os::{MemoryRange, MemorySource, SystemMemory};
use sandbox::{forbid_system_call, refuse_system_call};

/// The number of this process for calls that take the descriptor of one.
const PIDFD_SELF: libc::c_int = -10_000;

/// How many of the ranges are purged.
fn purged(ranges: &[MemoryRange]) -> usize {
    // SAFETY: nothing in the ranges is needed.
    unsafe { SystemMemory.decommit_each(ranges) }
}

/// Whether the kernel has the call for many ranges of the caller's own memory.
fn kernel_purges_many(ranges: &[MemoryRange]) -> bool {
    let count = ranges.len();
    // SAFETY: nothing in the ranges is needed, each of which is laid out as an `iovec`.
    let bytes = unsafe {
        libc::syscall(
            libc::SYS_process_madvise,
            PIDFD_SELF,
            ranges.as_ptr(),
            count,
            libc::MADV_DONTNEED,
            0 as libc::c_uint,
        )
    };
    usize::try_from(bytes) == Ok(count * page_bytes())
}

#[test]
fn many_ranges_are_purged_by_one_call_also_behind_one_that_is_locked() {
    alone(|| {
        let (_, ranges) = every_second_page(8);
        if cfg!(pymalloc_valgrind) || !kernel_purges_many(&ranges) {
            return;
        }
        refuse_system_call(libc::SYS_madvise, libc::EPERM);
        assert_eq!((purged(&ranges), purged(&ranges)), (4, 4));
        // What is locked in memory is not purged.
        // SAFETY: a range just mapped.
        assert_eq!(unsafe { libc::syscall(libc::SYS_mlock, ranges[0].start, page_bytes()) }, 0);
        assert_eq!((purged(&ranges), purged(&ranges[1..])), (0, 3));
    });
}

#[test]
fn a_call_for_many_ranges_that_was_refused_is_not_made_again() {
    alone(|| {
        let (_, ranges) = every_second_page(8);
        refuse_system_call(libc::SYS_process_madvise, libc::EPERM);
        assert_eq!(purged(&ranges), 4);
        forbid_system_call(libc::SYS_process_madvise);
        assert_eq!(purged(&ranges), 4);
    });
}
