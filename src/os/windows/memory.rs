//! Memory from Windows and back to it: addresses are *reserved*, and memory for them is *committed*.
//!
//! Committed memory counts against the system's commit limit, touched or not. So arenas are reserved, and their pools
//! are committed one by one, when they are taken. A purge decommits memory.
//!
//! A reservation begins at a multiple of [`GRANULARITY_BYTES`] and is released as a whole. So memory that needs a
//! larger alignment lies in a reservation that is larger by that much; of the rest, only addresses are lost.

use core::ffi::c_void;
use core::mem::MaybeUninit;
use core::ptr::{self, NonNull};

use super::{KeepErrno, MemoryRange, sys};

/// Where reservations begin: `dwAllocationGranularity`, which is the same on all systems.
const GRANULARITY_BYTES: usize = 64 << 10;

/// The same on all processors that 64-bit Windows runs on.
const PAGE_BYTES: usize = 4096;

pub(crate) const fn page_bytes() -> usize {
    PAGE_BYTES
}

pub(crate) fn reserve(bytes: usize, align: usize) -> Option<NonNull<u8>> {
    let _errno = KeepErrno::new();
    let spare_bytes = align.saturating_sub(GRANULARITY_BYTES);
    let all_bytes = bytes.checked_add(spare_bytes)?;
    // SAFETY: new addresses of the system's choice disturb nothing.
    let start = unsafe { sys::VirtualAlloc(ptr::null_mut(), all_bytes, sys::MEM_RESERVE, sys::PAGE_NOACCESS) };
    let start = NonNull::new(start.cast::<u8>())?;
    let skip_bytes = start.addr().get().next_multiple_of(align) - start.addr().get();
    // SAFETY: `skip_bytes <= spare_bytes`, since the start is a multiple of the granularity.
    Some(unsafe { start.add(skip_bytes) })
}

/// Commits the range. Parts that are committed already keep their contents.
///
/// # Safety
/// The range was reserved.
pub(crate) unsafe fn commit(start: NonNull<u8>, bytes: usize) -> bool {
    let _errno = KeepErrno::new();
    // SAFETY: inside of a reservation of the caller's.
    !unsafe { sys::VirtualAlloc(start.as_ptr().cast(), bytes, sys::MEM_COMMIT, sys::PAGE_READWRITE) }.is_null()
}

pub(crate) fn map(bytes: usize, align: usize) -> Option<NonNull<u8>> {
    let start = reserve(bytes, align)?;
    commit_new(start, start, bytes)
}

pub(crate) fn map_guarded(bytes: usize, guard_bytes: usize) -> Option<NonNull<u8>> {
    let guard = reserve(bytes.checked_add(2 * guard_bytes)?, guard_bytes)?;
    // Memory that is not committed can't be touched: that makes the guards.
    // SAFETY: inside of the reservation.
    commit_new(guard, unsafe { guard.add(guard_bytes) }, bytes)
}

/// Commits a range of a new reservation. If that fails, releases the reservation.
fn commit_new(reserved: NonNull<u8>, start: NonNull<u8>, bytes: usize) -> Option<NonNull<u8>> {
    // SAFETY: reserved just now, and no other thread knows it.
    unsafe {
        if commit(start, bytes) {
            return Some(start);
        }
        unmap(reserved, bytes);
    }
    None
}

/// The state of the OS page at an address, and of those behind it that have the same state.
fn query(address: *const u8) -> Option<sys::MemoryBasicInformation> {
    let mut answer = MaybeUninit::uninit();
    let bytes = size_of::<sys::MemoryBasicInformation>();
    // SAFETY: a place for the answer, of that length; an address is only looked up.
    let written = unsafe { sys::VirtualQuery(address.cast(), answer.as_mut_ptr(), bytes) };
    // SAFETY: the function says that it has written all of it.
    (written == bytes).then(|| unsafe { answer.assume_init() })
}

/// Releases the whole reservation that `start` lies in.
pub(crate) unsafe fn unmap(start: NonNull<u8>, _bytes: usize) -> bool {
    let _errno = KeepErrno::new();
    // SAFETY: the caller gives the memory up.
    query(start.as_ptr())
        .is_some_and(|known| unsafe { sys::VirtualFree(known.allocation_base, 0, sys::MEM_RELEASE) != 0 })
}

/// Not offered: once the memory is given back, there may be none to commit anew.
pub(crate) const unsafe fn purge(_start: NonNull<u8>, _bytes: usize) -> bool {
    false
}

pub(crate) unsafe fn decommit_each(ranges: &[MemoryRange]) -> usize {
    let _errno = KeepErrno::new();
    let decommitted = |range: &&MemoryRange| {
        // SAFETY: the caller gives the range's contents up.
        unsafe { sys::VirtualFree(range.start.cast(), range.bytes, sys::MEM_DECOMMIT) != 0 }
    };
    ranges.iter().take_while(decommitted).count()
}

/// Large pages need a privilege, can't be decommitted in parts, and are never swapped out. That does not suit every
/// program's heap.
pub(crate) const unsafe fn advise_huge(_start: NonNull<u8>, _bytes: usize, _huge: bool) {}

/// Windows brings in the neighbours of a touched OS page by itself.
pub(crate) const unsafe fn populate(_start: NonNull<u8>, _bytes: usize) {}

/// Milliseconds since the system started.
pub(crate) fn now_ms() -> u64 {
    // SAFETY: it only reads a clock.
    unsafe { sys::GetTickCount64() }
}

/// Bytes of whole OS pages that are in the working set.
pub(crate) fn resident_bytes(start: NonNull<u8>, bytes: usize) -> Option<usize> {
    /// OS pages of one call, asked for on the stack.
    const PAGES_MAX: usize = 256;
    let _errno = KeepErrno::new();
    let mut pages = [sys::WorkingSetExInformation { address: ptr::null_mut(), attributes: 0 }; PAGES_MAX];
    let mut resident = 0;
    for offset in (0..bytes).step_by(PAGES_MAX * PAGE_BYTES) {
        let count = ((bytes - offset) / PAGE_BYTES).min(PAGES_MAX);
        for (number, page) in pages.iter_mut().enumerate() {
            page.address = start.as_ptr().wrapping_add(offset + number * PAGE_BYTES).cast::<c_void>();
        }
        let asked = &mut pages[..count];
        // SAFETY: the questions have room for their answers; addresses are only looked up.
        let told =
            unsafe { sys::K32QueryWorkingSetEx(sys::THIS_PROCESS, asked.as_mut_ptr(), size_of_val(asked) as u32) };
        if told == 0 {
            return None;
        }
        resident += asked.iter().filter(|page| page.attributes & 1 != 0).count() * PAGE_BYTES;
    }
    Some(resident)
}

/// Bytes of whole OS pages that are committed.
pub(crate) fn committed_bytes(start: NonNull<u8>, bytes: usize) -> Option<usize> {
    let _errno = KeepErrno::new();
    let (mut offset, mut committed) = (0, 0);
    while offset < bytes {
        let known = query(start.as_ptr().wrapping_add(offset))?;
        let alike = known.region_bytes.min(bytes - offset);
        if known.state == sys::MEM_COMMIT {
            committed += alike;
        }
        offset += alike;
    }
    Some(committed)
}
