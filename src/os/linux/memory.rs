//! Memory from the OS and back to it: `mmap` and `madvise`.

use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::{KeepErrno, MemoryRange};

pub(crate) fn page_bytes() -> usize {
    static BYTES: AtomicUsize = AtomicUsize::new(0);
    // Relaxed: the number is the same for every thread, and asking twice does no harm.
    let known = BYTES.load(Ordering::Relaxed);
    if known != 0 {
        return known;
    }
    // SAFETY: sysconf has no preconditions.
    let bytes = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096);
    BYTES.store(bytes, Ordering::Relaxed);
    bytes
}

const READ_WRITE: libc::c_int = libc::PROT_READ | libc::PROT_WRITE;

fn map_anywhere(bytes: usize, access: libc::c_int) -> Option<NonNull<u8>> {
    // SAFETY: a new private anonymous mapping at an address of the kernel's choice disturbs nothing.
    let start = unsafe { libc::mmap(ptr::null_mut(), bytes, access, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0) };
    if start == libc::MAP_FAILED { None } else { NonNull::new(start.cast()) }
}

#[unsafe(link_section = ".text_pymalloc")]
pub(crate) fn map(bytes: usize, align: usize) -> Option<NonNull<u8>> {
    map_with(bytes, align, READ_WRITE)
}

#[unsafe(link_section = ".text_pymalloc")]
pub(crate) fn map_guarded(bytes: usize, guard_bytes: usize) -> Option<NonNull<u8>> {
    let _errno = KeepErrno::new();
    let all_bytes = bytes.checked_add(2 * guard_bytes)?;
    let guard = map_with(all_bytes, guard_bytes, libc::PROT_NONE)?;
    // SAFETY: inside the mapping just made. To open the memory between the guards takes one call; to close both guards
    // would take two.
    unsafe {
        let start = guard.add(guard_bytes);
        if libc::mprotect(start.as_ptr().cast(), bytes, READ_WRITE) == 0 {
            return Some(start);
        }
        // At the kernel's limit on mappings: there is less protection then, but no harm.
        unmap(guard, all_bytes);
        Some(map(all_bytes, guard_bytes)?.add(guard_bytes))
    }
}

#[unsafe(link_section = ".text_pymalloc")]
fn map_with(bytes: usize, align: usize, access: libc::c_int) -> Option<NonNull<u8>> {
    let _errno = KeepErrno::new();
    let start = map_anywhere(bytes, access)?;
    if start.addr().get().is_multiple_of(align) {
        return Some(start);
    }
    // SAFETY: mapped just above, not used yet.
    unsafe { unmap(start, bytes) };
    // Maps more than is needed, and cuts both ends off: this works whatever address the kernel chooses.
    let wide_bytes = bytes.checked_add(align)?;
    let wide = map_anywhere(wide_bytes, access)?;
    let head_bytes = wide.addr().get().next_multiple_of(align) - wide.addr().get();
    // SAFETY: `head_bytes <= align`, so the aligned range and both rests lie inside the mapping; rests of whole OS
    // pages, because start, `bytes` and `align` are. If the kernel keeps a rest, only address space is lost.
    unsafe {
        let start = wide.add(head_bytes);
        if head_bytes > 0 {
            unmap(wide, head_bytes);
        }
        if align > head_bytes {
            unmap(start.add(bytes), align - head_bytes);
        }
        Some(start)
    }
}

/// There is nothing to do.
pub(crate) const unsafe fn commit(_start: NonNull<u8>, _bytes: usize) -> bool {
    true
}

/// Nothing has to be committed.
pub(crate) const fn committed_bytes(_start: NonNull<u8>, _bytes: usize) -> Option<usize> {
    None
}

pub(crate) unsafe fn unmap(start: NonNull<u8>, bytes: usize) -> bool {
    let _errno = KeepErrno::new();
    // SAFETY: the caller gives up the range.
    unsafe { libc::munmap(start.as_ptr().cast(), bytes) == 0 }
}

pub(crate) unsafe fn purge(start: NonNull<u8>, bytes: usize) -> bool {
    let _errno = KeepErrno::new();
    // MADV_DONTNEED, not MADV_FREE: the memory leaves the process's RSS at once and reads as zero afterwards.
    // SAFETY: the caller gives up the range's contents.
    unsafe { libc::madvise(start.as_ptr().cast(), bytes, libc::MADV_DONTNEED) == 0 }
}

/// Bytes of whole OS pages that have memory, by `mincore`.
pub(crate) fn resident_bytes(start: NonNull<u8>, bytes: usize) -> Option<usize> {
    /// OS pages of one call: the answer is a byte for each, on the stack.
    const PAGES_MAX: usize = 512;
    let _errno = KeepErrno::new();
    let (page_bytes, mut resident) = (page_bytes(), 0);
    let mut pages = [0_u8; PAGES_MAX];
    for offset in (0..bytes).step_by(PAGES_MAX * page_bytes) {
        let length = (bytes - offset).min(PAGES_MAX * page_bytes);
        // SAFETY: `mincore` touches no memory of the range, and writes a byte for each of its OS pages.
        let told = unsafe { libc::mincore(start.as_ptr().wrapping_add(offset).cast(), length, pages.as_mut_ptr()) };
        if told != 0 {
            return None;
        }
        resident += pages.iter().take(length / page_bytes).filter(|&&page| page & 1 != 0).count() * page_bytes;
    }
    Some(resident)
}

/// Whether the kernel is asked to purge many ranges by one call. It is not, once it has refused ranges that it then
/// purged one by one.
static MANY_AT_ONCE: AtomicBool = AtomicBool::new(true);

super::at_start!(read_variable);

/// A sandbox may end the process at a system call that it does not know. No probe can tell beforehand, because the
/// sandbox may not know the call that asks what is allowed. So an environment variable says it.
#[unsafe(link_section = ".text_pymalloc")]
extern "C" fn read_variable() {
    if super::environment(c"PYMALLOC_NO_PROCESS_MADVISE").is_some_and(|value| !matches!(value, b"" | b"0")) {
        // Relaxed (all of this word): a hint; asking in vain does no harm.
        MANY_AT_ONCE.store(false, Ordering::Relaxed);
    }
}

/// Purges `ranges` by one call, where the kernel allows that for the caller's own memory (Linux 6.14). For all ranges
/// together, the kernel then looks at the process once and, in newer versions, flushes address translations once on
/// each of its CPUs. Each range takes a call of its own where the kernel is older, where a sandbox refuses, or where
/// `PYMALLOC_NO_PROCESS_MADVISE` asks for that.
pub(crate) unsafe fn decommit_each(ranges: &[MemoryRange]) -> usize {
    /// Not in the C library's headers yet.
    const PIDFD_SELF: libc::c_int = -10_000;

    let _errno = KeepErrno::new();
    let mut purged = 0;
    // Not for valgrind, which warns of system calls that it does not know.
    let at_once = ranges.len() > 1 && !cfg!(pymalloc_valgrind) && MANY_AT_ONCE.load(Ordering::Relaxed);
    if at_once {
        // SAFETY: the caller gives up the ranges' contents; a range is laid out as an `iovec`.
        let bytes = unsafe {
            libc::syscall(
                libc::SYS_process_madvise,
                PIDFD_SELF,
                ranges.as_ptr(),
                ranges.len(),
                libc::MADV_DONTNEED,
                0 as libc::c_uint,
            )
        };
        let mut advised = usize::try_from(bytes).unwrap_or(0);
        let is_whole = |range: &&MemoryRange| {
            let rest = advised.checked_sub(range.bytes);
            advised = rest.unwrap_or(0);
            rest.is_some()
        };
        purged = ranges.iter().take_while(is_whole).count();
    }
    let none_at_once = at_once && purged == 0;
    // SAFETY: as above.
    let is_purged =
        |range: &&MemoryRange| NonNull::new(range.start).is_some_and(|start| unsafe { purge(start, range.bytes) });
    purged += ranges[purged..].iter().take_while(is_purged).count();
    if none_at_once && purged > 0 {
        MANY_AT_ONCE.store(false, Ordering::Relaxed);
    }
    purged
}

pub(crate) unsafe fn advise_huge(start: NonNull<u8>, bytes: usize, huge: bool) {
    let _errno = KeepErrno::new();
    let advice = if huge { libc::MADV_HUGEPAGE } else { libc::MADV_NOHUGEPAGE };
    // A kernel without huge pages refuses: nothing is lost.
    // SAFETY: advice on the size of pages changes no contents.
    unsafe { libc::madvise(start.as_ptr().cast(), bytes, advice) };
}

pub(crate) unsafe fn populate(start: NonNull<u8>, bytes: usize) {
    let _errno = KeepErrno::new();
    // A kernel before 5.14 refuses, and so does one that is short of memory. Then OS pages come at the first access.
    // SAFETY: contents stay as they are.
    unsafe { libc::madvise(start.as_ptr().cast(), bytes, libc::MADV_POPULATE_WRITE) };
}

/// Milliseconds of the coarse clock, which takes no system call on most machines.
pub(crate) fn now_ms() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a place for a time. This clock is there since Linux 2.6.32; it can't fail.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut time) };
    time.tv_sec as u64 * 1_000 + time.tv_nsec as u64 / 1_000_000
}
